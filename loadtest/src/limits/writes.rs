//! Raw socket writes: one process writes ready-made frames to many sockets, so many of them with each `write`; another
//! reads them all. In rounds: every socket gets one write, and the next round comes when all have been read.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use serde::Serialize;

use crate::machine;
use crate::report::per_million;

/// As long as a `chatMessage` of 100 bytes of text on the wire.
const FRAME_BYTES: usize = 420;

/// What a frame costs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Writes {
    /// Frames that went with each write.
    pub frames_per_write: usize,
    /// Sockets written to.
    pub sockets: usize,
    /// Frames a second.
    pub frames_per_second: f64,
    /// CPU time of the writing process for a million frames.
    pub cpu_seconds_per_million: f64,
}

/// The writing process: takes `sockets` connections at a port that it prints, then writes rounds; a byte on the first
/// connection asks for the next one. Ends when that connection does.
pub fn serve_writes(sockets: usize, frames_per_write: usize) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let mut streams = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let frames = vec![b'.'; FRAME_BYTES * frames_per_write];
    let mut byte = [0];
    while streams[0].read(&mut byte)? == 1 {
        for stream in &mut streams {
            stream.write_all(&frames)?;
        }
    }
    Ok(())
}

/// Starts the writing process (`prefix` and this program, so that it can be pinned) and reads what it writes.
pub fn writes(
    prefix: &[String],
    sockets: usize,
    frames_per_write: usize,
    window: Duration,
) -> io::Result<Writes> {
    let program = std::env::current_exe()?;
    let mut words = prefix.to_vec();
    words.push(program.to_string_lossy().into_owned());
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .args(["serve-writes", "--sockets"])
        .arg(sockets.to_string())
        .arg("--frames-per-write")
        .arg(frames_per_write.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let measured = (|| {
        let mut port = String::new();
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        BufReader::new(output).read_line(&mut port)?;
        let port: u16 = port.trim().parse().map_err(io::Error::other)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        read_rounds(
            address,
            child.id(),
            sockets,
            FRAME_BYTES * frames_per_write,
            window,
        )
    })();
    // Where it has ended by itself there is nothing to end.
    let _ = child.kill();
    child.wait()?;
    let (rounds, seconds, cpu_seconds) = measured?;
    let frames = rounds * (sockets * frames_per_write) as u64;
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    let frames_per_second = frames as f64 / seconds;
    Ok(Writes {
        frames_per_write,
        sockets,
        frames_per_second,
        cpu_seconds_per_million: per_million(cpu_seconds, frames),
    })
}

/// Reads rounds for as long as the window, after a warm-up of a tenth of it. Returns the rounds, the seconds they took, and
/// what they cost the process.
fn read_rounds(
    address: SocketAddr,
    pid: u32,
    sockets: usize,
    bytes_each: usize,
    window: Duration,
) -> io::Result<(u64, f64, f64)> {
    let mut poll = Poll::new()?;
    let mut streams = Vec::with_capacity(sockets);
    for number in 0..sockets {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry()
            .register(&mut stream, Token(number), Interest::READABLE)?;
        streams.push(stream);
    }
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; 256 << 10];
    let mut round = || -> io::Result<()> {
        streams[0].write_all(b".")?;
        let mut awaited = sockets * bytes_each;
        while awaited > 0 {
            poll.poll(&mut events, None)?;
            for event in &events {
                loop {
                    match streams[event.token().0].read(&mut buffer) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(read) => awaited = awaited.saturating_sub(read),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    };
    let warm_up = Instant::now();
    while warm_up.elapsed() < window / 10 {
        round()?;
    }
    let before = machine::usage(&[pid]);
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < window {
        round()?;
        rounds += 1;
    }
    let cpu = machine::usage(&[pid]).cpu_seconds - before.cpu_seconds;
    Ok((rounds, begun.elapsed().as_secs_f64(), cpu))
}
