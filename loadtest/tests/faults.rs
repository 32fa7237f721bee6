//! The generator against a server that keeps its own books of what it loses, doubles and delivers out of order: what the
//! generator counts must be what the server did.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use loadtest::ledger::Counts;
use loadtest::net::Dialect;
use loadtest::report::{Outcome, Report};
use loadtest::scenario::{Chat, Fanout, Idle, Load, Storm, Target, Timing};
use loadtest::world::World;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;

const WORLD: World = World {
    agents: 20,
    clients: 10,
    conversations: 10,
    staff: 3,
};

const TIMING: Timing = Timing {
    warm_up: Duration::from_millis(100),
    measure: Duration::from_millis(400),
    quiet: Duration::from_secs(2),
};

/// What the server does with the messages of its agents; every number is a rate: one in so many, 0 for never.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    lose: u64,
    double: u64,
    /// One is held back until the next one for that agent.
    delay: u64,
    /// Refused with an `error` event.
    refuse: u64,
    /// Sent to an agent whose conversation it is not.
    misroute: u64,
}

#[derive(Default)]
struct Server {
    faults: Faults,
    sockets: HashMap<u64, UnboundedSender<String>>,
    /// By conversation.
    seqs: HashMap<u64, u64>,
    held: HashMap<u64, String>,
    stored: u64,
    done: Counts,
    refused: u64,
}

/// Starts it on a thread that lives as long as the test.
fn start(faults: Faults) -> (SocketAddr, Arc<Mutex<Server>>) {
    let server = Arc::new(Mutex::new(Server {
        faults,
        ..Server::default()
    }));
    let (told, address) = std::sync::mpsc::channel();
    let shared = server.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
    });
    (address.recv().unwrap(), server)
}

async fn serve(stream: TcpStream, server: Arc<Mutex<Server>>) {
    let Ok(socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    let (mut sink, mut frames) = socket.split();
    let (out, mut queue) = unbounded_channel::<String>();
    out.send(r#"0{"sid":"x"}"#.to_owned()).unwrap();
    tokio::spawn(async move {
        while let Some(text) = queue.recv().await {
            if sink.send(Message::text(text)).await.is_err() {
                return;
            }
        }
    });
    let mut user = 0;
    while let Some(Ok(Message::Text(text))) = frames.next().await {
        if let Some(auth) = text.strip_prefix("40") {
            user = account(auth);
            server.lock().unwrap().sockets.insert(user, out.clone());
            let _ = out.send(r#"40{"sid":"y","pid":"z"}"#.to_owned());
        } else if let Some(event) = text.strip_prefix("42") {
            let begin = event.find('[').unwrap();
            let (ack, arguments) = event.split_at(begin);
            let arguments: Vec<Value> = serde_json::from_str(arguments).unwrap();
            if !ack.is_empty() {
                let _ = out.send(format!("43{ack}[{{\"success\":true,\"data\":null}}]"));
            }
            let mut server = server.lock().unwrap();
            match arguments[0].as_str().unwrap() {
                "chatMessage" => server.message(user, &arguments[1]),
                "typing" => server.typing(user, &arguments[1]),
                _ => {}
            }
        }
    }
}

/// The account of a CONNECT packet's token.
fn account(auth: &str) -> u64 {
    let auth: Value = serde_json::from_str(auth).unwrap();
    let claims = auth["token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    claims["id"].as_u64().unwrap()
}

impl Server {
    /// A client's goes to its agent and, as a notification, to the staff; an agent's goes to all others.
    fn message(&mut self, user: u64, sent: &Value) {
        let conversation = sent["conversationId"].as_u64().unwrap();
        let seq = self.seqs.entry(conversation).or_default();
        *seq += 1;
        let message = json!({ "content": sent["message"], "eventSeq": *seq + 1_000, "seq": *seq });
        self.stored += 1;
        if self.faults.refuse > 0 && self.stored.is_multiple_of(self.faults.refuse) {
            self.refused += 1;
            let error = json!({ "success": false, "error": { "code": "SERVICE_UNAVAILABLE" } });
            return self.emit(user, "error", &error);
        }
        self.emit(user, "messageReceived", &message);
        if user <= u64::from(WORLD.agents) {
            let others: Vec<_> = self.sockets.keys().copied().collect();
            for other in others.into_iter().filter(|other| *other != user) {
                self.emit(other, "chatMessage", &message);
            }
            return;
        }
        let number = u32::try_from(conversation).unwrap();
        let agent = u64::from(WORLD.agent_of(number));
        self.deliver(agent, &message);
        for agent in 1..=u64::from(WORLD.staff) {
            let notification = json!({ "conversationId": conversation, "message": message });
            self.emit(agent, "newMessageNotification", &notification);
        }
    }

    /// A `chatMessage` to an agent, with what may go wrong on the way.
    fn deliver(&mut self, agent: u64, message: &Value) {
        let happens = |rate: u64| rate > 0 && self.stored.is_multiple_of(rate);
        let faults = self.faults;
        let (lose, double, delay, misroute) = (
            happens(faults.lose),
            happens(faults.double),
            happens(faults.delay),
            happens(faults.misroute),
        );
        if lose {
            self.done.lost += 1;
            return;
        }
        if misroute {
            self.done.stray += 1;
            let other = agent % u64::from(WORLD.staff) + 1;
            self.emit(other, "chatMessage", message);
        }
        if delay && !self.held.contains_key(&agent) {
            self.held.insert(agent, message.to_string());
            return;
        }
        self.emit(agent, "chatMessage", message);
        if let Some(held) = self.held.remove(&agent) {
            let held: Value = serde_json::from_str(&held).unwrap();
            self.done.out_of_order += 1;
            self.emit(agent, "chatMessage", &held);
        }
        if double {
            self.done.doubled += 1;
            self.emit(agent, "chatMessage", message);
        }
    }

    fn typing(&mut self, user: u64, sign: &Value) {
        let status = json!({ "conversationId": 1, "userId": user, "isTyping": sign["isTyping"] });
        let others: Vec<_> = self.sockets.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != user) {
            self.stored += 1;
            if self.faults.lose > 0 && self.stored.is_multiple_of(self.faults.lose) {
                self.done.lost += 1;
                continue;
            }
            self.emit(other, "typingStatus", &status);
        }
    }

    fn emit(&self, user: u64, event: &str, data: &Value) {
        // The offset of connection state recovery, as a further argument.
        let text = format!("42[\"{event}\",{data},\"offset-1\"]");
        if let Some(socket) = self.sockets.get(&user) {
            let _ = socket.send(text);
        }
    }
}

fn target(address: SocketAddr) -> Target {
    Target::new(
        vec![address],
        Vec::new(),
        Dialect::SocketIo,
        "secret",
        WORLD,
        None,
    )
}

fn counts(report: &Report) -> Counts {
    report.traffic().unwrap().counts
}

/// `chat` with one conversation for each agent, so that whatever an agent gets late is late in its conversation, too.
fn chat(faults: Faults, load: Load) -> (Counts, Counts, Report) {
    let (address, server) = start(faults);
    let scenario = Chat {
        conversations: 1,
        load,
        text_bytes: 60,
    };
    let report = scenario.run(&target(address), TIMING).unwrap();
    let done = server.lock().unwrap().done;
    (counts(&report), done, report)
}

#[test]
fn a_faithful_server_is_told_so() {
    let (counted, _, report) = chat(Faults::default(), Load::InFlight(4));
    let traffic = report.traffic().unwrap();
    assert!(traffic.sent > 50, "{}", traffic.sent);
    // The sender, its agent, and three notifications.
    let expected = Counts {
        delivered: 5 * traffic.sent,
        ..Counts::default()
    };
    assert_eq!(counted, expected);
    assert!(traffic.heard_ms.p50 > 0.0 && traffic.answered_ms.p50 > 0.0);
    assert!(
        traffic.servers.cpu_seconds > 0.0,
        "the process was found by its port"
    );
}

#[test]
fn what_is_lost_is_counted_one_for_one() {
    let faults = Faults {
        lose: 7,
        ..Faults::default()
    };
    let (counted, done, report) = chat(faults, Load::InFlight(4));
    assert!(done.lost > 3, "{done:?}");
    assert_eq!(
        (counted.lost, counted.doubled, counted.out_of_order),
        (done.lost, 0, 0)
    );
    assert_eq!(
        counted.delivered + counted.lost,
        5 * report.traffic().unwrap().sent
    );
}

#[test]
fn what_is_doubled_is_counted_one_for_one() {
    let faults = Faults {
        double: 5,
        ..Faults::default()
    };
    let (counted, done, _) = chat(faults, Load::PerSecond(400.0));
    assert!(done.doubled > 3, "{done:?}");
    assert_eq!(
        (counted.lost, counted.doubled, counted.out_of_order),
        (0, done.doubled, 0)
    );
}

#[test]
fn what_is_late_is_counted_one_for_one() {
    let faults = Faults {
        delay: 4,
        ..Faults::default()
    };
    let (counted, done, _) = chat(faults, Load::InFlight(4));
    assert!(done.out_of_order > 3, "{done:?}");
    assert_eq!(
        (counted.doubled, counted.out_of_order),
        (0, done.out_of_order)
    );
    // One may still have been held at the end.
    assert!(counted.lost <= 1, "{counted:?}");
}

#[test]
fn what_goes_to_the_wrong_agent_is_stray() {
    let faults = Faults {
        misroute: 6,
        ..Faults::default()
    };
    let (counted, done, _) = chat(faults, Load::InFlight(2));
    assert!(done.stray > 3, "{done:?}");
    assert_eq!((counted.lost, counted.stray), (0, done.stray));
}

#[test]
fn what_is_refused_is_an_error_and_not_lost() {
    let faults = Faults {
        refuse: 9,
        ..Faults::default()
    };
    let (address, server) = start(faults);
    let scenario = Chat {
        conversations: 1,
        load: Load::InFlight(4),
        text_bytes: 60,
    };
    let report = scenario.run(&target(address), TIMING).unwrap();
    let traffic = report.traffic().unwrap();
    let refused = server.lock().unwrap().refused;
    assert!(refused > 3, "{refused}");
    assert_eq!((traffic.errors, traffic.counts.lost), (refused, 0));
    assert_eq!(traffic.counts.delivered, 5 * (traffic.sent - refused));
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let (_, _, report) = chat(Faults::default(), Load::PerSecond(250.0));
    let rate = report.traffic().unwrap().messages_per_second;
    assert!((rate - 250.0).abs() < 25.0, "{rate}");
}

#[test]
fn a_room_is_heard_by_all_its_sockets() {
    let (address, _) = start(Faults::default());
    let scenario = Fanout {
        sockets: 20,
        senders: 3,
        in_flight: Some(2),
        text_bytes: Some(60),
    };
    let report = scenario.run(&target(address), TIMING).unwrap();
    let sent = report.traffic().unwrap().sent;
    assert!(sent > 20, "{sent}");
    assert_eq!(counts(&report).delivered, 20 * sent);
    assert_eq!(counts(&report).lost + counts(&report).out_of_order, 0);
}

#[test]
fn signs_of_writing_are_counted_too() {
    let scenario = Fanout {
        sockets: 20,
        senders: 1,
        in_flight: None,
        text_bytes: None,
    };
    let (address, _) = start(Faults::default());
    let report = scenario.run(&target(address), TIMING).unwrap();
    let sent = report.traffic().unwrap().sent;
    assert!(sent > 20, "{sent}");
    assert_eq!(counts(&report).delivered, 19 * sent);

    let (address, server) = start(Faults {
        lose: 101,
        ..Faults::default()
    });
    let report = scenario.run(&target(address), TIMING).unwrap();
    assert!(counts(&report).lost > 0);
    assert_eq!(counts(&report).lost, server.lock().unwrap().done.lost);
}

#[test]
fn connections_are_counted_and_refusals_told() {
    let (address, _) = start(Faults::default());
    let storm = Storm {
        connections: 50,
        at_once: 10,
        waves: 2,
    };
    let report = storm.run(&target(address)).unwrap();
    let Outcome::Storm(outcome) = &report.outcome else {
        panic!("{report}");
    };
    assert_eq!((outcome.failed, outcome.opened_ms.count), (0, 50));
    assert!(outcome.connects_per_second > 0.0);

    let idle = Idle {
        connections: 30,
        first: 0,
        settle: Duration::from_millis(10),
        watch: Duration::from_millis(50),
    };
    let report = idle.run(&target(address)).unwrap();
    let Outcome::Idle(outcome) = &report.outcome else {
        panic!("{report}");
    };
    assert_eq!((outcome.connections, outcome.connections_lost), (30, 0));

    // Nobody listens here.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nowhere.local_addr().unwrap();
    drop(nowhere);
    assert!(idle.run(&target(address)).is_err());
}
