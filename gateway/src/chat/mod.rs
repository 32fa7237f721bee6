//! The chat: conversations, messages, receipts, typing, presence, and who may do what. It knows no sockets and no HTTP:
//! `session/` and `api/` are its doors. One command, one method; each file holds the commands of one subject.

mod catch_up;
mod conversations;
mod draft;
mod events;
mod messages;
mod policy;
mod presence;
mod publisher;
mod receipts;
mod signs;
mod sync;
mod typing;
mod writer;

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use catch_up::CatchUp;
pub use conversations::{ConversationPage, PageRequest};
pub use draft::MAX_MESSAGE_CHARS;
pub(crate) use events::raw;
pub use messages::{MessagesPage, MessagesRequest, Sent};
pub use receipts::{ReadAnswer, UnreadCount};

use crate::bus::Bus;
use crate::cluster::Presence;
use crate::store::{Admission, SharedStore};
use presence::Tracker;
use publisher::Publisher;
use writer::Writers;

/// The chat of one node.
pub struct Chat {
    store: SharedStore,
    bus: Arc<dyn Bus>,
    presence: Arc<dyn Presence>,
    /// Who has sockets on this node.
    tracker: Tracker,
    writers: Writers,
    publisher: Publisher,
}

/// What the chat stands on.
pub struct Foundations {
    /// What is kept.
    pub store: SharedStore,
    /// The way to the sockets.
    pub bus: Arc<dyn Bus>,
    /// Who is online.
    pub presence: Arc<dyn Presence>,
    /// How many transactions may be in flight with messages: one for SQLite, a few for MySQL.
    pub writers: usize,
}

/// The chat's tasks, to be ended in order.
pub struct Running {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Chat {
    /// Starts the chat's tasks.
    pub fn start(on: Foundations) -> (Arc<Self>, Running) {
        let Foundations {
            store,
            bus,
            presence,
            writers,
        } = on;
        let stop = CancellationToken::new();
        let (publisher, mut tasks) = Publisher::start(&store, &bus, stop.clone());
        let admit: Arc<Admission> = Arc::new(policy::admit);
        let (writers, writing) = Writers::start(writers, &store, &publisher, &admit);
        tasks.extend(writing);
        let (tracker, tracking) = Tracker::start(&store, &bus, &presence, stop.clone());
        tasks.extend(tracking);
        (
            Arc::new(Self {
                store,
                bus,
                presence,
                tracker,
                writers,
                publisher,
            }),
            Running { stop, tasks },
        )
    }
}

impl Running {
    /// Waits until everything handed in is stored and published. The caller has dropped its `Chat` before: the tasks
    /// end when nobody can hand in more.
    pub async fn finish(self) {
        self.stop.cancel();
        for task in self.tasks {
            // A task that panicked has said so already.
            let _ = task.await;
        }
    }
}
