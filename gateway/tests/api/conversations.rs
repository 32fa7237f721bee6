//! The calls on conversations, and who is online.

use gateway::store::Viewer;
use serde_json::json;
use shared::Role;

use super::world::{Person, World};

#[tokio::test]
async fn a_conversation_is_opened_once() {
    let world = World::new().await;
    let (client, agent) = (world.client().await, world.agent().await);
    let open = async |agency_id: serde_json::Value| {
        world
            .post("/api/chat/conversations")
            .by(&client)
            .json(&json!({"agencyId": agency_id}))
            .await
    };
    let opened = open(json!(agent.id())).await;
    let data = opened.data(201);
    assert_eq!(data["agencyId"], agent.id());
    assert_eq!(data["client"]["userId"], client.id());
    assert_eq!(data["client"]["company"], "Acme");
    assert_eq!(
        (
            &data["lastSeq"],
            &data["lastEventSeq"],
            &data["unreadCount"]
        ),
        (&json!(0), &json!(1), &json!(0))
    );
    // Ids may be strings of digits.
    assert_eq!(open(json!(agent.id().to_string())).await.data(200), data);
    for bad in [
        json!("one"),
        json!(-1),
        json!(1.5),
        json!(true),
        json!({}),
        json!([]),
        json!(""),
        json!("1e3"),
    ] {
        assert!(
            open(bad)
                .await
                .failure(400, "VALIDATION_ERROR")
                .contains("agencyId")
        );
    }
}

#[tokio::test]
async fn opening_without_a_wish_needs_no_body() {
    let world = World::new().await;
    let client = world.client().await;
    let open = async || {
        world
            .post("/api/chat/conversations")
            .by(&client)
            .send()
            .await
    };
    open().await.failure(409, "NO_AGENT");
    let agent = world.agent().await;
    assert_eq!(open().await.data(201)["agencyId"], agent.id());
    open().await.data(200);
}

#[tokio::test]
async fn whom_to_talk_to_and_who_may() {
    let world = World::new().await;
    let (client, stranger, agent) = (
        world.client().await,
        world.client().await,
        world.agent().await,
    );
    let open = async |who: &Person, agency: i64| {
        world
            .post("/api/chat/conversations")
            .by(who)
            .json(&json!({"agencyId": agency}))
            .await
    };
    open(&client, 987_654).await.failure(404, "USER_NOT_FOUND");
    open(&client, stranger.id())
        .await
        .failure(404, "USER_NOT_FOUND");
    open(&agent, agent.id()).await.failure(403, "FORBIDDEN");
}

#[tokio::test]
async fn who_may_see_and_delete_a_conversation() {
    let world = World::new().await;
    let (client, stranger) = (world.client().await, world.client().await);
    let (agent, colleague) = (world.agent().await, world.agent().await);
    let path = world.converse(&client, &agent).await;
    for who in [&client, &agent, &colleague] {
        world.get(&path).by(who).send().await.data(200);
    }
    world
        .get(&path)
        .by(&stranger)
        .send()
        .await
        .failure(403, "FORBIDDEN");
    for who in [&client, &stranger] {
        world
            .delete(&path)
            .by(who)
            .send()
            .await
            .failure(403, "FORBIDDEN");
    }
    world.delete(&path).by(&colleague).send().await.nothing();
    for who in [&client, &agent] {
        world
            .get(&path)
            .by(who)
            .send()
            .await
            .failure(404, "CONVERSATION_NOT_FOUND");
    }
    world
        .delete(&path)
        .by(&agent)
        .send()
        .await
        .failure(404, "CONVERSATION_NOT_FOUND");
}

#[tokio::test]
async fn ids_in_paths_are_digits() {
    let world = World::new().await;
    let agent = world.agent().await;
    for bad in [
        "abc",
        "0",
        "-1",
        "+1",
        "1.5",
        "99999999999999999999",
        "%20",
        "%ff",
        "1%00",
    ] {
        let path = format!("/api/chat/conversations/{bad}");
        world
            .get(&path)
            .by(&agent)
            .send()
            .await
            .failure(400, "VALIDATION_ERROR");
        world
            .delete(&path)
            .by(&agent)
            .send()
            .await
            .failure(400, "VALIDATION_ERROR");
        world
            .get(&format!("{path}/messages"))
            .by(&agent)
            .send()
            .await
            .failure(400, "VALIDATION_ERROR");
        world
            .post(&format!("{path}/read"))
            .by(&agent)
            .send()
            .await
            .failure(400, "VALIDATION_ERROR");
        let message = json!({"message": "hello"});
        world
            .post(&format!("{path}/messages"))
            .by(&agent)
            .json(&message)
            .await
            .failure(400, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn conversations_are_listed_page_by_page() {
    let world = World::new().await;
    let (client, other) = (world.client().await, world.client().await);
    let mut paths = Vec::new();
    for _ in 0..3 {
        let agent = world.agent().await;
        paths.push(world.converse(&client, &agent).await);
    }
    let agent = world.agent().await;
    world.converse(&other, &agent).await;
    let list = async |who: &Person, query: &str| {
        world
            .get(&format!("/api/chat/conversations{query}"))
            .by(who)
            .send()
            .await
    };
    let all = list(&client, "").await;
    assert_eq!(all.data(200)["conversations"].as_array().unwrap().len(), 3);
    assert_eq!(all.data(200)["nextCursor"], json!(null));
    let first = list(&client, "?limit=2").await;
    let cursor = first.data(200)["nextCursor"].as_str().unwrap();
    let second = list(&client, &format!("?limit=2&cursor={cursor}&more=x")).await;
    assert_eq!(second.data(200)["nextCursor"], json!(null));
    let pages = [first.data(200), second.data(200)]
        .map(|page| page["conversations"].as_array().unwrap().clone());
    assert_eq!(json!(pages.concat()), all.data(200)["conversations"]);
    assert_eq!(
        list(&agent, "").await.data(200)["conversations"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    for bad in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=%2B1",
        "limit=x",
        "limit=",
        "limit=1&limit=2",
        "limit=1.5",
    ] {
        let answer = list(&client, &format!("?{bad}")).await;
        assert!(
            answer.failure(400, "VALIDATION_ERROR").contains("limit"),
            "{bad}: {}",
            answer.text
        );
    }
    for bad in ["cursor=", "cursor=nonsense"] {
        assert!(
            list(&client, &format!("?{bad}"))
                .await
                .failure(400, "VALIDATION_ERROR")
                .contains("cursor")
        );
    }
}

#[tokio::test]
async fn who_is_online_depends_on_who_asks() {
    let world = World::new().await;
    let (client, other, agent) = (
        world.client().await,
        world.client().await,
        world.agent().await,
    );
    world.converse(&client, &agent).await;
    world
        .chat
        .arrive(Viewer {
            user: agent.user.id,
            role: Role::Admin,
        })
        .await;
    world
        .chat
        .arrive(Viewer {
            user: client.user.id,
            role: Role::User,
        })
        .await;
    let online = async |who: &Person| {
        let answer = world.get("/api/chat/online").by(who).send().await;
        let users = answer.data(200)["users"].as_array().unwrap().clone();
        users
            .iter()
            .map(|user| user["id"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(online(&agent).await, [client.id(), agent.id()]);
    assert_eq!(online(&client).await, [agent.id()]);
    assert!(online(&other).await.is_empty());
}
