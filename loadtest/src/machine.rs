//! What Linux says of processes and of the machine: CPU time and memory from `/proc`, who listens on a port, which core a
//! process may use, how many files it may open.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// What some processes have used together so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Usage {
    /// User and system time since their start, in seconds, to the kernel's tick (10 ms).
    pub cpu_seconds: f64,
    /// Resident memory in bytes, now.
    pub rss_bytes: u64,
}

/// What the processes have used; those that are gone count nothing.
pub fn usage(pids: &[u32]) -> Usage {
    pids.iter().fold(Usage::default(), |sum, pid| {
        let one = usage_of(&pid.to_string()).unwrap_or_default();
        Usage {
            cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
            rss_bytes: sum.rss_bytes + one.rss_bytes,
        }
    })
}

/// What this process has used.
pub fn own_usage() -> Usage {
    usage_of("self").unwrap_or_default()
}

fn usage_of(pid: &str) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (ticks, pages) = parse_stat(&stat)?;
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some(Usage {
        cpu_seconds,
        rss_bytes: pages * rustix::param::page_size() as u64,
    })
}

/// Ticks of user and system time, and resident pages (proc_pid_stat(5): fields 14, 15 and 24).
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    // The second field is the program's name, which may have blanks and brackets.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let pages: u64 = fields.nth(8)?.parse().ok()?;
    Some((user + system, pages))
}

/// How long the machine's cores have worked since it was started, over all of them, in seconds (proc_stat(5)).
pub fn busy_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    let seconds = parse_busy(&stat).unwrap_or_default() as f64
        / rustix::param::clock_ticks_per_second() as f64;
    seconds
}

/// Ticks that were neither idle nor waiting for a disk.
fn parse_busy(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    // user, nice, system; then idle and iowait; then irq, softirq, steal. What guests took is in user already.
    let [user, nice, system, _idle, _iowait, rest @ ..] = ticks.as_slice() else {
        return None;
    };
    Some(user + nice + system + rest.iter().take(3).sum::<u64>())
}

/// The processes that listen on a TCP port of this machine.
pub fn listeners(port: u16) -> Vec<u32> {
    let sockets: HashSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| has_one_of(*pid, &sockets))
        .collect()
}

/// The inodes of sockets that listen on a port, in a table such as `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTENING: &str = "0A";
    let port = format!(":{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTENING;
            listens.then(|| fields.get(9)?.parse().ok()).flatten()
        })
        .collect()
}

fn has_one_of(pid: u32, sockets: &HashSet<String>) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|files| {
        files
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .any(|target| target.to_str().is_some_and(|name| sockets.contains(name)))
    })
}

/// Keeps this process, and those it starts from now on, on one core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Lets this process, and those it starts, open as many files as the system allows. Returns how many.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}

/// The machine in one line: processor, cores, memory, kernel.
pub fn describe() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split(['\t', ':', '=']).next_back());
        value
            .unwrap_or("unknown")
            .trim()
            .trim_matches('"')
            .to_owned()
    };
    let cores = fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kilobytes: u64 = field("/proc/meminfo", "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, {cores} cores, {} GiB, {}, Linux {}",
        field("/proc/cpuinfo", "model name"),
        kilobytes >> 20,
        field("/etc/os-release", "PRETTY_NAME"),
        kernel.trim(),
    )
}

/// Whether a file system's folder is kept in memory, where `fsync` costs nothing and a database's figures say nothing.
pub fn is_in_memory(folder: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (at, kind) = (fields.next()?, fields.next()?);
            folder.starts_with(at).then_some((at.len(), kind))
        })
        .max_by_key(|(length, _)| *length)
        .is_some_and(|(_, kind)| matches!(kind, "tmpfs" | "ramfs"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_programs_name_does_not_shift_the_fields() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 99 1000000 321 18446744073709551615";
        assert_eq!(parse_stat(stat), Some((300, 321)));
        assert_eq!(parse_stat("7 (a) S"), None);
    }

    #[test]
    fn work_is_what_is_neither_idle_nor_waiting() {
        let stat = "cpu  10 20 30 1000 2000 1 2 3 500 600\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_busy(stat), Some(66));
        assert_eq!(parse_busy("intr 5"), None);
        assert!(busy_seconds() > 0.0);
    }

    #[test]
    fn own_cpu_time_rises_with_work() {
        let before = own_usage();
        let begun = Instant::now();
        let mut work = 0_u64;
        while begun.elapsed().as_millis() < 100 {
            work = std::hint::black_box(work + 1);
        }
        let after = own_usage();
        assert!(after.cpu_seconds > before.cpu_seconds);
        assert!(after.rss_bytes > 100_000);
        assert_eq!(usage(&[]), Usage::default());
    }

    #[test]
    fn the_listener_of_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listeners(port), [std::process::id()]);
        drop(listener);
        assert!(listeners(port).is_empty());
    }

    #[test]
    fn the_machine_is_described() {
        let line = describe();
        assert!(
            line.contains("cores") && !line.contains("unknown"),
            "{line}"
        );
    }
}
