//! The program on the server: does what an event's name says, and keeps books of what the layer under it promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gateway::realtime::{
    Accepted, Application, CloseKind, ConnectRequest, DisconnectReason, EngineMessage,
    EngineProgram, EngineSession, Event, IncomingEvent, Refusal, Settings, Socket,
};
use serde_json::value::RawValue;

/// Counts what the layer does.
pub(super) struct Program {
    max_payload: usize,
    max_attachments: usize,
    /// Sockets that were let in.
    accepted: AtomicUsize,
    /// Sockets whose end was told.
    ended: AtomicUsize,
    /// Answers that were given, and those that a plain socket's `authenticate` got.
    answers: AtomicUsize,
}

/// One socket's.
pub(super) struct Session {
    ended: AtomicBool,
}

impl Program {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            max_payload: settings.max_payload,
            max_attachments: settings.max_attachments,
            accepted: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
        }
    }

    /// Once every connection is gone: the books must balance. `answers` is how many answers the client got.
    pub(super) fn judge(&self, answers: usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        assert_eq!(
            count(&self.accepted),
            count(&self.ended),
            "sockets let in, and ended"
        );
        assert!(
            answers <= count(&self.answers),
            "more answers than were given"
        );
    }
}

impl Application for Program {
    type Session = Session;

    fn accepts_namespace(&self, namespace: &str) -> bool {
        namespace == "/" || namespace.starts_with("/c")
    }

    async fn connect(
        &self,
        socket: &Socket,
        request: ConnectRequest,
    ) -> Result<Accepted<Session>, Refusal> {
        assert_eq!(socket.namespace(), request.namespace);
        let auth = request.auth.as_deref().map_or("", RawValue::get);
        // Counted beforehand: a refusal is an answer too.
        self.answers.fetch_add(1, Ordering::Relaxed);
        if auth.contains("late") {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if auth.contains("no") {
            return Err(Refusal {
                message: "no".to_owned(),
                data: RawValue::NULL.to_owned(),
                http_status: 401,
                body: json(r#"{"success":false}"#),
                close_code: 4401,
                come_back: false,
            });
        }
        socket.emit(&Arc::new(Event::new("welcome", json("1"), false)));
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Accepted {
            session: Arc::new(Session {
                ended: AtomicBool::new(false),
            }),
            answer: None,
            recovery_id: None,
        })
    }

    async fn event(&self, socket: &Socket, session: &Arc<Session>, event: IncomingEvent) {
        assert!(
            !session.ended.load(Ordering::Relaxed),
            "an event after the end"
        );
        assert!(event.attachments.len() <= self.max_attachments);
        let bytes: usize = event.attachments.iter().map(bytes::Bytes::len).sum();
        assert!(bytes + event.args.get().len() <= self.max_payload);
        serde_json::from_str::<Vec<&RawValue>>(event.args.get()).unwrap();
        match event.name.as_str() {
            "echo" => socket.emit_args("echo", &event.args, &event.attachments),
            "end" => socket.close(CloseKind::Unauthorized),
            "expire" => socket.close(CloseKind::Expired),
            "ask" => {
                let question = Arc::new(Event::new("question", json("1"), true));
                let asked = socket.emit_with_ack(&question, Duration::from_secs(2));
                let socket = socket.clone();
                tokio::spawn(async move {
                    if let Ok(answer) = asked.await {
                        socket.emit_args("answer", &answer.args, &answer.attachments);
                    }
                });
            }
            "silent" => {}
            "flood" => {
                for _ in 0..100 {
                    socket.emit_args("flood", &event.args, &event.attachments);
                }
            }
            name => {
                if name == "slow" {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                let Some(ack) = event.ack else { return };
                self.answers.fetch_add(1, Ordering::Relaxed);
                if name == "later" {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        ack.send_args(&event.args, &event.attachments);
                    });
                } else {
                    ack.send_args(&event.args, &event.attachments);
                }
            }
        }
    }

    fn disconnect(&self, socket: &Socket, session: &Arc<Session>, _: DisconnectReason) {
        assert!(socket.is_closed());
        assert!(
            !session.ended.swap(true, Ordering::Relaxed),
            "it ended twice"
        );
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl EngineProgram for Program {
    fn message(&self, session: &EngineSession, message: EngineMessage) {
        session.send(message);
    }
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}
