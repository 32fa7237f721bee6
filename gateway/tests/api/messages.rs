//! The calls on messages: paging, saying, reading, counting, syncing.

use serde_json::{Value, json};

use super::world::{Answer, Person, World};

struct Talk {
    world: World,
    client: Person,
    agent: Person,
    path: String,
}

impl Talk {
    async fn new() -> Self {
        let world = World::new().await;
        let (client, agent) = (world.client().await, world.agent().await);
        let path = world.converse(&client, &agent).await;
        Self {
            world,
            client,
            agent,
            path,
        }
    }

    fn id(&self) -> i64 {
        self.path.rsplit('/').next().unwrap().parse().unwrap()
    }

    async fn say(&self, who: &Person, body: &Value) -> Answer {
        self.world
            .post(&format!("{}/messages", self.path))
            .by(who)
            .json(body)
            .await
    }

    async fn page(&self, who: &Person, query: &str) -> Answer {
        self.world
            .get(&format!("{}/messages{query}", self.path))
            .by(who)
            .send()
            .await
    }

    async fn read(&self, who: &Person, body: &Value) -> Answer {
        self.world
            .post(&format!("{}/read", self.path))
            .by(who)
            .json(body)
            .await
    }

    async fn sync(&self, who: &Person, body: &Value) -> Answer {
        self.world.post("/api/chat/sync").by(who).json(body).await
    }
}

#[tokio::test]
async fn a_message_is_kept_as_sent_and_stored_once() {
    let talk = Talk::new().await;
    let text = "  <b>hello</b> \u{1f600}\n ";
    let first = talk
        .say(
            &talk.client,
            &json!({"message": text, "clientMessageId": "c-1"}),
        )
        .await;
    let data = first.data(201);
    assert_eq!(
        (&data["content"], &data["seq"], &data["eventSeq"]),
        (&json!(text), &json!(1), &json!(2))
    );
    assert_eq!(
        (&data["senderType"], &data["receiverId"]),
        (&json!("client"), &json!(talk.agent.id()))
    );
    assert_eq!(
        (&data["isRead"], &data["readAt"], &data["clientMessageId"]),
        (&json!(false), &json!(null), &json!("c-1"))
    );
    let repeat = talk
        .say(
            &talk.client,
            &json!({"message": "other words", "clientMessageId": "c-1"}),
        )
        .await;
    assert_eq!(repeat.data(200), data);
    let answer = talk.say(&talk.agent, &json!({"message": "welcome"})).await;
    assert_eq!(
        (&answer.data(201)["seq"], &answer.data(201)["receiverId"]),
        (&json!(2), &json!(talk.client.id()))
    );
    let page = talk.page(&talk.client, "").await;
    assert_eq!(
        page.data(200),
        &json!({"messages": [data, answer.data(201)], "hasMore": false})
    );
}

#[tokio::test]
async fn what_is_no_message() {
    let talk = Talk::new().await;
    for text in ["", " ", "\n\t \u{a0}"] {
        talk.say(&talk.client, &json!({"message": text}))
            .await
            .failure(400, "EMPTY_MESSAGE");
    }
    for body in [
        json!({}),
        json!({"message": null}),
        json!({"message": ["x"]}),
        json!({"message": "x".repeat(5_001)}),
        json!({"message": "x", "clientMessageId": ""}),
        json!({"message": "x", "clientMessageId": "x".repeat(65)}),
    ] {
        talk.say(&talk.client, &body)
            .await
            .failure(400, "VALIDATION_ERROR");
    }
    let long = "\u{1f600}".repeat(5_000);
    assert_eq!(
        talk.say(&talk.client, &json!({"message": long}))
            .await
            .data(201)["content"],
        json!(long)
    );
}

#[tokio::test]
async fn who_may_say_and_read_what_where() {
    let talk = Talk::new().await;
    let stranger = talk.world.client().await;
    let colleague = talk.world.agent().await;
    let hello = json!({"message": "hello"});
    talk.say(&stranger, &hello).await.failure(403, "FORBIDDEN");
    talk.page(&stranger, "").await.failure(403, "FORBIDDEN");
    talk.read(&stranger, &json!({}))
        .await
        .failure(403, "FORBIDDEN");
    let positions = json!({"conversations": [{"conversationId": talk.id(), "afterEventSeq": 0}]});
    talk.sync(&stranger, &positions)
        .await
        .failure(403, "FORBIDDEN");
    assert_eq!(
        talk.say(&colleague, &hello).await.data(201)["receiverId"],
        talk.client.id()
    );

    let gone = "/api/chat/conversations/987654";
    let world = &talk.world;
    world
        .get(&format!("{gone}/messages"))
        .by(&talk.agent)
        .send()
        .await
        .failure(404, "CONVERSATION_NOT_FOUND");
    world
        .post(&format!("{gone}/messages"))
        .by(&talk.agent)
        .json(&hello)
        .await
        .failure(404, "CONVERSATION_NOT_FOUND");
    world
        .post(&format!("{gone}/read"))
        .by(&talk.agent)
        .send()
        .await
        .failure(404, "CONVERSATION_NOT_FOUND");
    let positions = json!({"conversations": [{"conversationId": 987_654, "afterEventSeq": 0}]});
    talk.sync(&talk.agent, &positions)
        .await
        .failure(404, "CONVERSATION_NOT_FOUND");
}

#[tokio::test]
async fn messages_are_paged_in_either_direction() {
    let talk = Talk::new().await;
    for i in 1..=7 {
        talk.say(&talk.client, &json!({"message": format!("message {i}")}))
            .await
            .data(201);
    }
    let page = async |query: &str| {
        let answer = talk.page(&talk.agent, query).await;
        let data = answer.data(200);
        let seqs: Vec<_> = data["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["seq"].as_i64().unwrap())
            .collect();
        (seqs, data["hasMore"].as_bool().unwrap())
    };
    assert_eq!(page("").await, ((1..=7).collect(), false));
    assert_eq!(page("?limit=3").await, (vec![5, 6, 7], true));
    assert_eq!(page("?beforeSeq=5&limit=3").await, (vec![2, 3, 4], true));
    assert_eq!(page("?beforeSeq=2").await, (vec![1], false));
    assert_eq!(page("?beforeSeq=1").await, (vec![], false));
    assert_eq!(page("?afterSeq=0&limit=2").await, (vec![1, 2], true));
    assert_eq!(page("?afterSeq=5").await, (vec![6, 7], false));
    for bad in [
        "limit=0",
        "limit=101",
        "limit=ten",
        "beforeSeq=x",
        "beforeSeq=",
        "afterSeq=-1",
        "afterSeq=1.5",
    ] {
        let answer = talk.page(&talk.agent, &format!("?{bad}")).await;
        let name = bad.split('=').next().unwrap();
        assert!(
            answer.failure(400, "VALIDATION_ERROR").contains(name),
            "{bad}: {}",
            answer.text
        );
    }
    talk.page(&talk.agent, "?beforeSeq=5&afterSeq=2")
        .await
        .failure(400, "VALIDATION_ERROR");
}

#[tokio::test]
async fn reading_and_the_counts_of_both_sides() {
    let talk = Talk::new().await;
    let colleague = talk.world.agent().await;
    for _ in 0..3 {
        talk.say(&talk.client, &json!({"message": "hello"}))
            .await
            .data(201);
    }
    talk.say(&talk.agent, &json!({"message": "welcome"}))
        .await
        .data(201);
    let unread = async |who: &Person| {
        talk.world
            .get("/api/chat/unread-count")
            .by(who)
            .send()
            .await
            .data(200)
            .clone()
    };
    assert_eq!(unread(&talk.client).await, json!({"unreadCount": 1}));
    assert_eq!(
        unread(&talk.agent).await,
        json!({"unreadCount": 3, "mine": 3})
    );
    assert_eq!(
        unread(&colleague).await,
        json!({"unreadCount": 3, "mine": 0})
    );
    let read = talk.read(&talk.agent, &json!({"upToSeq": 2})).await;
    assert_eq!(read.data(200), &json!({"upToSeq": 2, "count": 2}));
    assert_eq!(
        talk.read(&talk.agent, &json!({"upToSeq": "2"}))
            .await
            .data(200),
        &json!({"upToSeq": 2, "count": 0})
    );
    // Without a body, the last.
    let last = talk
        .world
        .post(&format!("{}/read", talk.path))
        .by(&talk.agent)
        .send()
        .await;
    assert_eq!(last.data(200), &json!({"upToSeq": 4, "count": 1}));
    assert_eq!(unread(&talk.agent).await["unreadCount"], 0);
    assert_eq!(unread(&talk.client).await["unreadCount"], 1);
    for bad in [json!(-1), json!("x"), json!(1.5), json!({})] {
        talk.read(&talk.agent, &json!({"upToSeq": bad}))
            .await
            .failure(400, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn sync_answers_heads_pages_and_what_is_gone() {
    let talk = Talk::new().await;
    for _ in 0..3 {
        talk.say(&talk.agent, &json!({"message": "hello"}))
            .await
            .data(201);
    }
    let id = talk.id();
    // Without a body, the heads.
    let heads = talk
        .world
        .post("/api/chat/sync")
        .by(&talk.client)
        .send()
        .await;
    let head = &heads.data(200)["conversations"][0];
    assert_eq!(
        (
            &head["conversationId"],
            &head["lastSeq"],
            &head["lastEventSeq"]
        ),
        (&json!(id), &json!(3), &json!(4))
    );
    let positions = |after| json!({"conversations": [{"conversationId": id.to_string(), "afterEventSeq": after}], "limit": 2});
    let page = talk.sync(&talk.client, &positions(1)).await;
    let page = &page.data(200)["conversations"][0];
    assert_eq!(page["hasMore"], true);
    let events: Vec<_> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["chatMessage", "chatMessage"]);
    assert_eq!(
        talk.sync(&talk.client, &positions(3)).await.data(200)["conversations"][0]["hasMore"],
        false
    );
    talk.world
        .delete(&talk.path)
        .by(&talk.agent)
        .send()
        .await
        .nothing();
    assert_eq!(
        talk.sync(&talk.client, &positions(4)).await.data(200)["conversations"][0]["gone"],
        true
    );
    for bad in [
        json!({"conversations": "all"}),
        json!({"conversations": [{}]}),
        json!({"limit": 0}),
        json!({"limit": "x"}),
    ] {
        talk.sync(&talk.client, &bad)
            .await
            .failure(400, "VALIDATION_ERROR");
    }
}
