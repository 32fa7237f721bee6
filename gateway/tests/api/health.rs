//! `/healthz` and `/readyz`.

use std::sync::Arc;

use gateway::api::Part;
use gateway::bus::Bus;
use gateway::bus::local::LocalBus;
use tokio_util::sync::CancellationToken;

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
async fn the_parts_are_asked_in_the_background() {
    let world = World::unready(&[]).await;
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
    let stop = CancellationToken::new();
    let watch = tokio::spawn(world.readiness.clone().watch(
        world.store.clone(),
        bus.clone(),
        stop.clone(),
    ));
    let becomes = async |expected: &[&str]| {
        let wait = async {
            while world.readiness.obstacles() != expected {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait)
            .await
            .expect("true within 10 seconds");
    };
    becomes(&[]).await;
    bus.close().await;
    becomes(&["bus"]).await;
    world.store.close().await;
    becomes(&["database", "bus"]).await;
    stop.cancel();
    watch.await.unwrap();
}
