//! A link to MySQL that breaks when and how a test wants: a proxy that knows where one packet ends and the next begins, and
//! which of them are a transaction's. No test stands here.
//!
//! Packets of MySQL begin with their length, three bytes, and a number, one byte; a client's command begins with what it
//! is. <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html>

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A command of text: `COM_QUERY`.
const QUERY: u8 = 3;

/// How the link breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The packet never arrives, and both ends learn that the link is gone.
    Before,
    /// The same, and nothing passes on any other connection until `Link::hold(false)`.
    Outage,
    /// The packet arrives and is acted on; its answer never comes back.
    After,
    /// The packet is held up, with the server's end open, until `Link::release`; the client's end is gone at once.
    Late,
    /// Nothing passes any more, and neither end learns of it.
    Silent,
}

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// At so many packets after a transaction began.
    Packet(usize),
    /// At its commit.
    Commit,
}

/// A proxy before a server.
pub(crate) struct Link {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    server: u16,
    /// What breaks next, once.
    armed: Mutex<Option<(At, Cut)>>,
    connections: AtomicUsize,
    release: Notify,
    /// Whether nothing passes at all.
    held: watch::Sender<bool>,
}

impl Link {
    /// A sound link to the server on that port.
    pub(crate) async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server,
            armed: Mutex::new(None),
            connections: AtomicUsize::new(0),
            release: Notify::new(),
            held: watch::Sender::new(false),
        });
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(shared.clone().carry(client));
                }
            }
        });
        Self { port, shared, task }
    }

    /// Breaks once, at the next transaction that gets so far.
    pub(crate) fn arm(&self, at: At, cut: Cut) {
        *self.shared.armed.lock() = Some((at, cut));
    }

    /// Whether it has broken since it was armed; it is sound afterwards.
    pub(crate) fn has_cut(&self) -> bool {
        self.shared.armed.lock().take().is_none()
    }

    /// Returns once an outage has begun.
    pub(crate) async fn is_out(&self) {
        let mut held = self.shared.held.subscribe();
        held.wait_for(|held| *held).await.unwrap();
    }

    /// Lets a packet through that came too late.
    pub(crate) fn release(&self) {
        self.shared.release.notify_one();
    }

    /// Lets nothing through, or everything again.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is left to do with a connection that broke.
enum Broken {
    /// Nothing.
    Off,
    /// This packet arrives when it is released.
    Late(Vec<u8>),
    /// Both ends are kept from learning of it.
    Silent,
}

impl Shared {
    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        let server = TcpStream::connect(("127.0.0.1", self.server)).await;
        // The client learns by the end of its connection that nobody is there.
        let Ok(mut server) = server else { return };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        match self.pump(&mut client, &mut server).await {
            Broken::Off => {}
            Broken::Late(packet) => {
                drop(client);
                self.release.notified().await;
                server.write_all(&packet).await.unwrap();
                // Its answer: the server has acted on it.
                let _ = server.read(&mut [0; 64]).await;
            }
            Broken::Silent => std::future::pending().await,
        }
    }

    /// Carries both ways until an end hangs up, or the link breaks.
    async fn pump(&self, client: &mut TcpStream, server: &mut TcpStream) -> Broken {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let (mut commands, mut answers) = (Vec::new(), Vec::new());
        // Packets of the transaction so far, while there is one.
        let mut count = None;
        loop {
            tokio::select! {
                read = from_client.read_buf(&mut commands) => {
                    if !matches!(read, Ok(1..)) {
                        return Broken::Off;
                    }
                    while let Some(packet) = take_packet(&mut commands) {
                        let cut = self.due(&packet, &mut count);
                        match cut {
                            Some(Cut::Before) => return Broken::Off,
                            Some(Cut::Outage) => {
                                self.held.send_replace(true);
                                return Broken::Off;
                            }
                            Some(Cut::Late) => return Broken::Late(packet),
                            Some(Cut::Silent) => return Broken::Silent,
                            None | Some(Cut::After) => {}
                        }
                        self.is_open().await;
                        if to_server.write_all(&packet).await.is_err() {
                            return Broken::Off;
                        }
                        if cut.is_some() {
                            // Its answers, until there come no more: the server has acted on all of it.
                            let pause = Duration::from_millis(50);
                            let mut read = from_server.read_buf(&mut answers).await;
                            while matches!(read, Ok(1..)) {
                                let more = timeout(pause, from_server.read_buf(&mut answers)).await;
                                read = more.unwrap_or(Ok(0));
                            }
                            return Broken::Off;
                        }
                    }
                }
                read = from_server.read_buf(&mut answers) => {
                    if !matches!(read, Ok(1..)) {
                        return Broken::Off;
                    }
                    self.is_open().await;
                    if to_client.write_all(&answers).await.is_err() {
                        return Broken::Off;
                    }
                    answers.clear();
                }
            }
        }
    }

    async fn is_open(&self) {
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    /// What breaks at this packet.
    fn due(&self, packet: &[u8], count: &mut Option<usize>) -> Option<Cut> {
        let sql = match packet.get(4) {
            Some(&QUERY) => &packet[5..],
            _ => &[],
        };
        // By itself, or after the last statements of its transaction.
        let is_commit = sql == b"COMMIT" || sql.ends_with(b";\nCOMMIT;\n");
        *count = match *count {
            _ if sql.starts_with(b"BEGIN") => Some(0),
            _ if is_commit || sql == b"ROLLBACK" => None,
            count => count.map(|count| count + 1),
        };
        let mut armed = self.armed.lock();
        let (at, cut) = (*armed)?;
        let is_due = match at {
            At::Commit => is_commit,
            At::Packet(place) => *count == Some(place),
        };
        is_due.then(|| {
            *armed = None;
            cut
        })
    }
}

/// The first whole packet, with its head.
fn take_packet(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let head = bytes.first_chunk::<4>()?;
    let length = 4 + u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    (bytes.len() >= length).then(|| bytes.drain(..length).collect())
}
