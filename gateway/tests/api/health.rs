//! `/healthz` and `/readyz`.

use std::sync::Arc;

use gateway::api::{Part, Readiness};
use gateway::bus::Bus;
use gateway::bus::local::LocalBus;

use super::world::World;

const GOOD: Result<(), &str> = Ok(());

#[tokio::test]
async fn a_node_is_ready_when_its_parts_answer_until_it_drains() {
    let world = World::unready(&[]).await;
    world.get("/healthz").send().await.data(200);
    let answer = world.get("/readyz").send().await;
    assert_eq!(
        answer.failure(503, "SERVICE_UNAVAILABLE"),
        "not ready: database, bus"
    );
    assert!(!answer.header("retry-after").is_empty());
    world.readiness.report(Part::Database, GOOD);
    assert_eq!(
        world
            .get("/readyz")
            .send()
            .await
            .failure(503, "SERVICE_UNAVAILABLE"),
        "not ready: bus"
    );
    world.readiness.report(Part::Bus, GOOD);
    assert_eq!(
        world.get("/readyz").send().await.data(200)["status"],
        "ready"
    );
    world.readiness.report(Part::Database, Err("gone"));
    assert_eq!(
        world
            .get("/readyz")
            .send()
            .await
            .failure(503, "SERVICE_UNAVAILABLE"),
        "not ready: database"
    );
    world.readiness.report(Part::Database, GOOD);
    world.readiness.drain();
    assert_eq!(
        world
            .get("/readyz")
            .send()
            .await
            .failure(503, "SERVICE_UNAVAILABLE"),
        "not ready: draining"
    );
    assert_eq!(
        world.get("/healthz").send().await.data(200)["status"],
        "alive"
    );
}

#[tokio::test]
async fn a_node_that_knows_no_revocations_is_not_ready() {
    let world = World::without_revocations().await;
    world.readiness.report(Part::Database, GOOD);
    world.readiness.report(Part::Bus, GOOD);
    assert_eq!(
        world
            .get("/readyz")
            .send()
            .await
            .failure(503, "SERVICE_UNAVAILABLE"),
        "not ready: sessions"
    );
}

#[tokio::test]
async fn the_database_and_the_bus_are_asked() {
    let world = World::unready(&[]).await;
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
    let ask = async || {
        world.readiness.ask(&world.store, &bus).await;
        world.readiness.obstacles()
    };
    assert!(ask().await.is_empty());
    bus.close().await;
    assert_eq!(ask().await, ["bus"]);
    world.store.close().await;
    assert_eq!(ask().await, ["database", "bus"]);
}

#[tokio::test]
async fn a_schema_that_is_not_this_versions_is_no_database() {
    let directory =
        std::env::temp_dir().join(format!("chat-test-api-{:016x}", rand::random::<u64>()));
    std::fs::create_dir(&directory).unwrap();
    let url = format!("sqlite://{}/chat.db", directory.display());
    let store = gateway::store::open(&gateway::store::Settings::new(url)).unwrap();
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
    let readiness = Readiness::new();
    readiness.ask(&store, &bus).await;
    assert_eq!(readiness.obstacles(), ["database"]);
    store.migrate().await.unwrap();
    readiness.ask(&store, &bus).await;
    assert!(readiness.obstacles().is_empty());
    store.close().await;
    std::fs::remove_dir_all(directory).unwrap();
}
