//! A read replica in real replication: a reader sees its own writes on every node, and others' no later than the limit allows,
//! whatever the replica does. Where an answer came from is told by a mark that is set in the replica alone.

use std::time::{Duration, Instant};

use gateway::store::{MessagePage, PagePosition, ProfileChange, ReadMark, SharedStore, open};
use shared::{EventSeq, SenderType, Timestamp};

use crate::harness::{Database, Fixture, Kind, Talk, admin, anyone, client, stored};
use crate::mariadb_server::MariaDb;

/// How far behind the replica may be. Longer than a step of a test takes.
const LIMIT: Duration = Duration::from_secs(3);

/// A number that nobody counted.
const MARK: i64 = 77;

struct House {
    primary: MariaDb,
    replica: MariaDb,
    fixture: Fixture,
    talk: Talk,
    /// Two nodes.
    nodes: [SharedStore; 2],
}

fn options(options: &[&str]) -> Vec<String> {
    options.iter().map(ToString::to_string).collect()
}

impl House {
    async fn start() -> Self {
        Self::with_limit(LIMIT).await
    }

    async fn with_limit(limit: Duration) -> Self {
        let primary = MariaDb::start_with(options(&["--server-id=1", "--log-bin=bin"])).await;
        let replica = MariaDb::start_with(options(&["--server-id=2", "--read-only"])).await;
        replica
            .sql(&[
                "DROP DATABASE chat",
                &format!(
                    "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='root', \
                     MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1",
                    primary.port
                ),
                "START SLAVE",
            ])
            .await;
        // As docs/outside.md has it; the replica hears of it, too.
        primary
            .sql(&[
                "CREATE USER reader@'%'",
                "GRANT SELECT ON *.* TO reader@'%'",
            ])
            .await;
        let server = primary.url().trim_end_matches("chat").to_owned();
        let fixture = Fixture::in_database(Database::on(Kind::MySql, server).await).await;
        let talk = fixture.talk().await;
        let mut settings = fixture.database.settings();
        settings.replica_url = Some(fixture.database.url_at("reader", replica.port));
        settings.replica_lag = limit;
        let nodes = [open(&settings).unwrap(), open(&settings).unwrap()];
        let house = Self {
            primary,
            replica,
            fixture,
            talk,
            nodes,
        };
        house.follows().await;
        house
    }

    /// Plain SQL in the replica alone.
    async fn in_replica(&self, sql: &str) {
        let database = self.fixture.database.url.rsplit('/').next().unwrap();
        self.replica.sql(&[&format!("USE {database}; {sql}")]).await;
    }

    /// Waits until the replica has all that was committed.
    async fn follows(&self) {
        let at: String = sqlx::query_scalar("SELECT @@gtid_binlog_pos")
            .fetch_one(&mut self.primary.root().await)
            .await
            .unwrap();
        let waited: i64 = sqlx::query_scalar("SELECT MASTER_GTID_WAIT(?, 30)")
            .bind(at)
            .fetch_one(&mut self.replica.root().await)
            .await
            .unwrap();
        assert_eq!(waited, 0, "the replica does not follow");
    }

    /// Marks what only the replica answers. The primary's next change of the conversation takes it away.
    async fn mark(&self) {
        let sql =
            format!("UPDATE Conversations SET unreadCount = {MARK}, clientUnreadCount = {MARK}");
        self.in_replica(&sql).await;
    }

    async fn unread_of_agent(&self, node: usize) -> i64 {
        let totals = self.nodes[node].unread(admin(self.talk.agent)).await;
        totals.unwrap().all
    }

    async fn unread_of_client(&self, node: usize) -> i64 {
        let totals = self.nodes[node].unread(client(self.talk.client)).await;
        totals.unwrap().all
    }

    /// Waits until a node reads the replica: its clock must have come there once.
    async fn is_read(&self, node: usize) {
        let give_up = Instant::now() + Duration::from_secs(20);
        while self.unread_of_agent(node).await != MARK {
            assert!(Instant::now() < give_up, "the replica is not read");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn client_says(&self, node: usize, text: &str) -> EventSeq {
        let said = self.nodes[node]
            .append(&[self.talk.by_client(text)], &anyone())
            .await;
        stored(&said.unwrap().results[0]).event_seq
    }

    /// What the list of conversations shows as the last message.
    async fn listed(&self, node: usize, viewer: gateway::store::Viewer) -> Option<String> {
        let list = self.nodes[node]
            .conversations(viewer, None, 10)
            .await
            .unwrap();
        list[0].conversation.last_message.clone()
    }

    async fn latest(&self, node: usize, as_of: EventSeq) -> Vec<String> {
        let page = MessagePage {
            position: PagePosition::Latest,
            limit: 50,
            as_of: Some(as_of),
        };
        let found = self.nodes[node]
            .messages(self.talk.conversation, page)
            .await;
        found
            .unwrap()
            .into_iter()
            .map(|message| message.content)
            .collect()
    }

    async fn end(self) {
        for node in &self.nodes {
            node.close().await;
        }
        self.fixture.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_lag_is_read_from_the_replica() {
    let house = House::start().await;
    house.mark().await;
    house.is_read(0).await;
    let (store, talk) = (&house.nodes[0], house.talk);
    assert_eq!(house.unread_of_client(0).await, MARK);
    house
        .in_replica("UPDATE Conversations SET lastMessage = 'replica'; UPDATE Users SET firstName = 'replica'")
        .await;
    for viewer in [admin(talk.agent), client(talk.client)] {
        assert_eq!(house.listed(0, viewer).await.as_deref(), Some("replica"));
    }
    let people = store.users(talk.agent, &[talk.client]).await.unwrap();
    assert_eq!(people[0].first_name.as_deref(), Some("replica"));
    assert_eq!(
        store.counterparts(admin(talk.agent)).await.unwrap(),
        [talk.client]
    );
    assert_eq!(
        store.counterparts(client(talk.client)).await.unwrap(),
        [talk.agent]
    );
    // Who may do what, and what sync needs, is not.
    let record = store
        .conversation(talk.conversation)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.conversation.unread_count, 0);
    assert_ne!(
        store
            .user(talk.client)
            .await
            .unwrap()
            .unwrap()
            .first_name
            .as_deref(),
        Some("replica")
    );

    // A page comes from there as soon as it has the last change.
    let seq = house.client_says(0, "one").await;
    house.follows().await;
    house
        .in_replica("UPDATE Messages SET content = 'replica'")
        .await;
    assert_eq!(house.latest(1, seq).await, ["replica"]);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_its_own_writes_on_every_node_while_the_replica_stands_still() {
    let house = House::start().await;
    let talk = house.talk;
    house.mark().await;
    for node in [0, 1] {
        house.is_read(node).await;
    }
    house.replica.sql(&["STOP SLAVE SQL_THREAD"]).await;
    let stopped = Instant::now();

    let seq = house.client_says(0, "mine").await;
    for node in [0, 1] {
        let mine = house.listed(node, client(talk.client)).await;
        assert_eq!(mine.as_deref(), Some("mine"), "node {node}");
        assert_eq!(house.unread_of_client(node).await, 0, "node {node}");
        // A page is whole for whoever knows of the change, the others, too.
        assert_eq!(house.latest(node, seq).await, ["mine"]);
    }
    // Somebody else may not see it yet: that is what the replica is for.
    assert_eq!(house.unread_of_agent(1).await, MARK);
    assert!(stopped.elapsed() < LIMIT, "too slow to tell");
    let give_up = Instant::now() + LIMIT * 3;
    while house.unread_of_agent(1).await == MARK {
        assert!(Instant::now() < give_up, "it is read beyond the limit");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen_after = stopped.elapsed();
    println!("the others see it after {seen_after:?}");
    assert!(seen_after < LIMIT + Duration::from_secs(1));
    assert_eq!(house.unread_of_agent(1).await, 1);

    house.replica.sql(&["START SLAVE SQL_THREAD"]).await;
    house.follows().await;
    house.mark().await;
    house.is_read(1).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_that_has_ended_is_heeded_until_the_replica_is_past_it() {
    let house = House::start().await;
    // Notes hold for twice (one second and one and a half, and one to spare).
    let mut settings = house.fixture.database.settings();
    settings.replica_url = Some(house.fixture.database.url_at("reader", house.replica.port));
    settings.replica_lag = LIMIT * 20;
    settings.acquire_timeout = Duration::from_secs(1);
    settings.statement_timeout = Duration::from_secs(1);
    let node = open(&settings).unwrap();
    let (mine, theirs) = (client(house.talk.client), admin(house.talk.agent));
    let unread = async |viewer| node.unread(viewer).await.unwrap().all;
    house.mark().await;
    let give_up = Instant::now() + Duration::from_secs(60);
    while unread(theirs).await != MARK {
        assert!(Instant::now() < give_up, "the replica is not read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.replica.sql(&["STOP SLAVE SQL_THREAD"]).await;
    let message = [house.talk.by_client("mine")];
    node.append(&message, &anyone()).await.unwrap();
    let written = Instant::now();
    while written.elapsed() < Duration::from_secs(9) {
        assert_eq!(unread(mine).await, 0, "after {:?}", written.elapsed());
        assert_eq!(unread(theirs).await, MARK);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    house.replica.sql(&["START SLAVE SQL_THREAD"]).await;
    house.follows().await;
    house.mark().await;
    while unread(mine).await != MARK {
        assert!(
            Instant::now() < give_up,
            "it never comes back to the replica"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Whoever writes again is noted again: after the note's end, and before it, where the write may take longer than what is left.
    let until = format!(
        "SELECT writesUntil FROM UserWrites WHERE userId = {}",
        house.talk.client
    );
    let mut noted = house.fixture.database.number(&until).await;
    for pause in [0, 3_800] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        node.append(&message, &anyone()).await.unwrap();
        let again = house.fixture.database.number(&until).await;
        assert!(again > noted, "{again} after {noted}");
        noted = again;
    }
    node.close().await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_write_is_read_by_its_writer() {
    let house = House::start().await;
    let talk = house.talk;
    house.client_says(0, "to be read").await;
    house.follows().await;
    house.mark().await;
    house.is_read(1).await;
    house.replica.sql(&["STOP SLAVE SQL_THREAD"]).await;

    let mark = ReadMark {
        conversation: talk.conversation,
        reader: talk.agent,
        side: SenderType::Agency,
        up_to: None,
        at: Timestamp::now(),
    };
    house.nodes[0].mark_read(&mark).await.unwrap().unwrap();
    assert_eq!(house.unread_of_agent(1).await, 0);

    let newcomer = house.fixture.client("new@example.com").await;
    let opened = house.nodes[0]
        .open_conversation(newcomer.id, Some(talk.agent), Timestamp::now())
        .await;
    opened.unwrap();
    let list = house.nodes[1]
        .conversations(client(newcomer.id), None, 10)
        .await;
    assert_eq!(list.unwrap().len(), 1);
    let people = house.nodes[1].counterparts(client(newcomer.id)).await;
    assert_eq!(people.unwrap(), [talk.agent]);

    let other = house.fixture.client("other@example.com").await;
    let change = ProfileChange {
        first_name: Some(Some("Changed".to_owned())),
        ..ProfileChange::default()
    };
    house.nodes[0]
        .update_profile(other.id, &change)
        .await
        .unwrap();
    let people = house.nodes[1].users(other.id, &[other.id]).await.unwrap();
    assert_eq!(people[0].first_name.as_deref(), Some("Changed"));

    let boss = house.fixture.admin("boss@example.com").await;
    let deleted = house.nodes[0]
        .delete_conversation(talk.conversation, boss.id, Timestamp::now())
        .await;
    deleted.unwrap().unwrap();
    let list = house.nodes[1]
        .conversations(admin(boss.id), None, 10)
        .await
        .unwrap();
    assert!(
        list.iter()
            .all(|one| one.conversation.id != talk.conversation)
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_costs_no_read_and_is_read_again() {
    let mut house = House::start().await;
    house.mark().await;
    house.is_read(0).await;
    house.replica.kill();
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(house.unread_of_agent(0).await, 0);
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }
    house.replica.restart().await;
    house.follows().await;
    house.mark().await;
    house.is_read(0).await;
    // Frozen it takes connections and answers nothing.
    house.replica.freeze();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(house.unread_of_agent(0).await, 0);
    }
    println!("20 reads beside a frozen replica: {:?}", begun.elapsed());
    // It is left alone between two tries, each of which costs what a reader has the patience for.
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    house.replica.thaw();
    house.is_read(0).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_are_made_before_anything_is_read_from_it_and_seldom() {
    let house = House::with_limit(Duration::ZERO).await;
    house.mark().await;
    let notes = "SELECT COUNT(*) FROM UserWrites";
    assert_eq!(house.fixture.database.number(notes).await, 0);
    house.client_says(0, "one").await;
    let until = "SELECT MAX(writesUntil) FROM UserWrites";
    let first = house.fixture.database.number(until).await;
    for _ in 0..20 {
        house.client_says(0, "more").await;
    }
    // One statement for all of them.
    assert_eq!(house.fixture.database.number(until).await, first);
    assert_eq!(house.fixture.database.number(notes).await, 1);
    house.follows().await;
    house.mark().await;
    assert_eq!(house.unread_of_agent(0).await, 21);
    // A node that reads from it already heeds them, whatever the other's limit is.
    let mut settings = house.fixture.database.settings();
    settings.replica_url = Some(house.fixture.database.url_at("reader", house.replica.port));
    settings.replica_lag = LIMIT * 20;
    let reading = open(&settings).unwrap();
    let give_up = Instant::now() + Duration::from_secs(20);
    while reading.unread(admin(house.talk.agent)).await.unwrap().all != MARK {
        assert!(Instant::now() < give_up, "the replica is not read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.replica.sql(&["STOP SLAVE SQL_THREAD"]).await;
    let own = reading.unread(client(house.talk.client)).await.unwrap();
    assert_eq!(own.all, 0);
    reading.close().await;
    house.replica.sql(&["START SLAVE SQL_THREAD"]).await;
    // Without a replica there are none.
    house.fixture.say(house.talk.by_agent("unnoted")).await;
    assert_eq!(house.fixture.database.number(notes).await, 1);
    house.end().await;
}
