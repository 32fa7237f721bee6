//! Many sockets on one thread: an event loop over epoll that opens connections, reads what comes and hands it to a
//! `Driver`, and writes what the driver sends. Built to cost less than any server it is pointed at: one read buffer for
//! all connections, no task and no timer for each, frames looked at where they lie.

mod connection;
mod dialect;
mod frame;
mod setup;
mod sources;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use connection::{Connection, Step};
pub use dialect::Dialect;
use sources::Sources;

/// A connection's number: they are numbered 0, 1, 2 ... as they are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId(pub usize);

/// A connection to be opened.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which of the engine's servers it goes to.
    pub server: usize,
    /// The access token it shows.
    pub token: Rc<str>,
}

/// What the loop does with what happens.
pub trait Driver {
    /// A connection was let in by its server.
    fn opened(&mut self, _net: &mut Net, _conn: ConnId) {}

    /// An event came. Of `payload` only the beginning is the event's data (see `dialect::Heard::Event`).
    fn event(&mut self, _net: &mut Net, _conn: ConnId, _name: &[u8], _payload: &[u8]) {}

    /// An answer came to what was sent with this number.
    fn answer(&mut self, _net: &mut Net, _conn: ConnId, _id: u64, _payload: &[u8]) {}

    /// A connection ended that this side had not closed, or could not be opened.
    fn gone(&mut self, net: &mut Net, conn: ConnId, why: &str);

    /// The time of `Net::wake_at` has come.
    fn alarm(&mut self, _net: &mut Net) {}
}

/// The size of the one read buffer: enough that a server which writes much at once is read at once.
const READ_BUFFER: usize = 512 << 10;

/// How many ready connections the kernel tells of in one call.
const EVENTS: usize = 1_024;

const TIMER: Token = Token(usize::MAX);

/// The loop.
pub struct Engine {
    net: Net,
    events: Events,
    buffer: Box<[u8]>,
}

/// What a driver may do: everything but read.
pub struct Net {
    poll: Poll,
    timer: OwnedFd,
    servers: Vec<SocketAddr>,
    sources: Sources,
    dialect: Dialect,
    connections: Vec<Connection>,
    /// Connections with something to write.
    dirty: Vec<ConnId>,
    begun: Instant,
    /// Nanoseconds since `begun`, as of the last read.
    now: u64,
    stopped: bool,
    /// Where an event's text is put together.
    text: Vec<u8>,
}

impl Engine {
    /// A loop for connections to these servers.
    pub fn new(servers: Vec<SocketAddr>, dialect: Dialect) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Self {
            net: Net {
                poll,
                timer,
                servers,
                sources: Sources::new(),
                dialect,
                connections: Vec::new(),
                dirty: Vec::new(),
                begun: Instant::now(),
                now: 0,
                stopped: false,
                text: Vec::new(),
            },
            events: Events::with_capacity(EVENTS),
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
        })
    }

    /// What a driver gets to see.
    pub const fn net(&mut self) -> &mut Net {
        &mut self.net
    }

    /// Runs until the driver says stop. The driver is woken once at the beginning.
    pub fn run(&mut self, driver: &mut impl Driver) -> io::Result<()> {
        self.net.stopped = false;
        self.net.tick();
        driver.alarm(&mut self.net);
        self.net.flush(driver);
        while !self.net.stopped {
            if let Err(error) = self.net.poll.poll(&mut self.events, None) {
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            self.net.tick();
            for event in &self.events {
                if event.token() == TIMER {
                    self.net.silence_timer();
                    driver.alarm(&mut self.net);
                    continue;
                }
                let conn = ConnId(event.token().0);
                if event.is_writable() {
                    self.net.writable(conn, driver);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.net.readable(conn, &mut self.buffer, driver);
                }
            }
            self.net.flush(driver);
        }
        Ok(())
    }
}

impl Net {
    /// Nanoseconds since the engine was made.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Ends `Engine::run` once what is to be written is.
    pub const fn stop(&mut self) {
        self.stopped = true;
    }

    /// Wakes the driver at a moment of `now`'s clock, to the microsecond; the last call holds.
    pub fn wake_at(&mut self, at: u64) {
        let at = Duration::from_nanos(at.max(1)).saturating_sub(self.begun.elapsed());
        // Nought would turn the timer off.
        let at = at.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: at.as_secs().cast_signed(),
            tv_nsec: at.subsec_nanos().into(),
        };
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let set = timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec {
                it_interval: interval,
                it_value: value,
            },
        );
        debug_assert!(set.is_ok(), "{set:?}");
    }

    /// Begins to open a connection.
    pub fn open(&mut self, plan: &Plan) -> io::Result<ConnId> {
        let conn = ConnId(self.connections.len());
        let server = self.servers[plan.server];
        let mut stream = self.sources.connect(server)?;
        self.poll.registry().register(
            &mut stream,
            Token(conn.0),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let connection = Connection::new(stream, self.dialect, server, &plan.token);
        self.connections.push(connection);
        Ok(conn)
    }

    /// Sends an event; it is written when the driver has done with what it was told.
    pub fn send(&mut self, conn: ConnId, name: &str, payload: &[u8], ack: Option<u64>) {
        self.dialect.event(&mut self.text, name, payload, ack);
        if self.connections[conn.0].queue_text(&self.text) {
            self.dirty.push(conn);
        }
    }

    /// Ends a connection without ado; its driver does not hear of it.
    pub fn close(&mut self, conn: ConnId) {
        self.connections[conn.0].close();
    }

    /// How many connections there are that were not closed.
    pub fn open_connections(&self) -> usize {
        self.connections.iter().filter(|c| c.is_open()).count()
    }

    fn tick(&mut self) {
        // The program does not run for 584 years.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        let now = self.begun.elapsed().as_nanos() as u64;
        self.now = now;
    }

    fn silence_timer(&self) {
        let mut count = [0; 8];
        // Where it has not gone off after all there is nothing to read, which is as well.
        let _ = rustix::io::read(&self.timer, &mut count);
    }

    fn readable(&mut self, conn: ConnId, buffer: &mut [u8], driver: &mut impl Driver) {
        loop {
            let read = match self.connections[conn.0].read(buffer) {
                Ok(Some(read)) => read,
                Ok(None) => return,
                Err(error) => return self.lose(conn, &error.to_string(), driver),
            };
            self.tick();
            if read == 0 {
                return self.lose(conn, "closed by the server", driver);
            }
            if let Err(why) = self.take(conn, &buffer[..read], driver) {
                return self.lose(conn, &why, driver);
            }
            // A read that does not fill the buffer has emptied the socket (epoll(7)).
            if read < buffer.len() {
                return;
            }
        }
    }

    /// Goes through what came, and keeps what is not whole.
    fn take(&mut self, conn: ConnId, bytes: &[u8], driver: &mut impl Driver) -> Result<(), String> {
        let kept = self.connections[conn.0].take_rest();
        let joined;
        let mut bytes = bytes;
        if !kept.is_empty() {
            joined = [&*kept, bytes].concat();
            bytes = &joined;
        }
        while let Some((step, len)) = self.connections[conn.0].step(bytes)? {
            match step {
                Step::Opened => driver.opened(self, conn),
                Step::Event { name, payload } => driver.event(self, conn, name, payload),
                Step::Answer { id, payload } => driver.answer(self, conn, id, payload),
                Step::Reply => self.dirty.push(conn),
                Step::Nothing => {}
            }
            bytes = &bytes[len..];
        }
        self.connections[conn.0].keep_rest(bytes);
        Ok(())
    }

    fn writable(&mut self, conn: ConnId, driver: &mut impl Driver) {
        if let Err(error) = self.connections[conn.0].write() {
            self.lose(conn, &error.to_string(), driver);
        }
    }

    fn flush(&mut self, driver: &mut impl Driver) {
        while let Some(conn) = self.dirty.pop() {
            self.writable(conn, driver);
        }
    }

    fn lose(&mut self, conn: ConnId, why: &str, driver: &mut impl Driver) {
        if self.connections[conn.0].is_open() {
            self.close(conn);
            driver.gone(self, conn, why);
        }
    }
}
