//! Reading where the order stands in Redis, and the history that `publish.lua` keeps. Asked on the subscription link's own
//! connection: its answers then stand in one line with the frames heard there, and can't come from another Redis.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
use shared::Room;

use super::commands::Commands;
use crate::bus::Place;

/// How many envelopes one look takes: a page of the largest ones is a few megabytes, which Redis writes in milliseconds.
const PAGE: usize = 128;

/// Where a connection's Redis stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stand {
    /// Which process. With `data`: a place is good only where it was read. A replica that was promoted, or a Redis that
    /// came back with an older copy of its data, goes on with the same epoch, and gives the offsets of what it lost to
    /// something else.
    pub(super) process: String,
    /// Whose data it follows.
    pub(super) data: String,
    pub(super) place: Place,
}

/// One envelope of the history.
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) payload: Vec<u8>,
}

/// The history's readers' side.
#[derive(Debug, Clone)]
pub(super) struct History {
    stream: String,
    history: String,
    script: Script,
}

impl History {
    pub(super) fn new(commands: &Commands, script: Script) -> Self {
        Self {
            stream: stream_key(commands),
            history: history_key(commands),
            script,
        }
    }

    /// Where a connection's Redis stands. Begins an epoch where there is none, so that there is a place to go on from, and
    /// where the epoch was another Redis', so that no offset names two things.
    pub(super) async fn stand(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<Stand>> {
        let info: String = redis::cmd("INFO").query_async(connection).await?;
        let process = field(&info, "run_id").to_owned();
        let home = home(&info, &info);
        let mut begin = self.script.key(&self.stream);
        begin.key(&self.history).arg(epoch_name());
        // Of no use without envelopes.
        for _ in 0..6 {
            begin.arg(1);
        }
        let _: Vec<u8> = begin.arg(home).invoke_async(connection).await?;
        let (place, data) = self.place_and_data(connection).await?;
        Ok(place.map(|place| Stand {
            process,
            data,
            place,
        }))
    }

    /// The place, and whose data the Redis follows; an error where it is a replica: what it hears skips what a
    /// resynchronisation brings. The place is read first, so that it is the data's.
    pub(super) async fn place_and_data(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<(Option<Place>, String)> {
        let mut both = redis::pipe();
        both.cmd("HMGET")
            .arg(&self.stream)
            .arg("epoch")
            .arg("offset");
        both.cmd("INFO").arg("replication");
        let ((epoch, offset), info): (Standing, String) = both.query_async(connection).await?;
        if field(&info, "role") == "slave" {
            return Err((redis::ErrorKind::Client, "this Redis has become a replica").into());
        }
        let data = field(&info, "master_replid").to_owned();
        Ok((place(epoch, offset), data))
    }

    /// The place alone.
    pub(super) async fn place(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<Place>> {
        let mut ask = redis::cmd("HMGET");
        ask.arg(&self.stream).arg("epoch").arg("offset");
        let (epoch, offset): Standing = ask.query_async(connection).await?;
        Ok(place(epoch, offset))
    }

    /// The next envelopes after one place, up to another, in order.
    pub(super) async fn page(
        &self,
        connection: &mut MultiplexedConnection,
        after: u64,
        up_to: u64,
    ) -> RedisResult<Vec<Entry>> {
        let mut ask = redis::cmd("XRANGE");
        ask.arg(&self.history)
            .arg(format!("{}-0", after + 1))
            .arg(format!("{up_to}-0"))
            .arg("COUNT")
            .arg(PAGE);
        Ok(entries(ask.query_async(connection).await?))
    }

    /// The question `HereAnswer` answers.
    pub(super) fn ask_here(&self) -> redis::Pipeline {
        let mut ask = redis::pipe();
        ask.cmd("HMGET")
            .arg(&self.stream)
            .arg("epoch")
            .arg("offset");
        ask
    }

    /// The question `KeptAnswer` answers: where the order stands, what comes after a place, and on which Redis. Asked at
    /// once, so that all are of one Redis and one moment.
    pub(super) fn ask_kept(&self, after: Place, limit: usize) -> redis::Pipeline {
        let mut ask = self.ask_here();
        // A client may name any offset.
        let first = after.offset.saturating_add(1);
        ask.cmd("HGET").arg(&self.stream).arg("home");
        ask.cmd("INFO").arg("server");
        ask.cmd("INFO").arg("replication");
        ask.cmd("XRANGE")
            .arg(&self.history)
            .arg(format!("{first}-0"))
            .arg("+")
            .arg("COUNT")
            .arg(limit.max(1));
        ask.atomic();
        ask
    }
}

/// What `ask_here` is answered with.
pub(super) type HereAnswer = (Standing,);

/// Where the order stands.
pub(super) fn read_here(((epoch, offset),): HereAnswer) -> Option<Place> {
    place(epoch, offset)
}

/// What `ask_kept` is answered with.
pub(super) type KeptAnswer = (Standing, Option<String>, String, String, Page);

/// What comes after a place; `None` where that can't be told any more.
pub(super) fn read_kept(after: Place, answer: KeptAnswer) -> Option<Vec<Entry>> {
    let ((epoch, offset), its_home, server, replication, page) = answer;
    let end = place(epoch, offset)?;
    if end.epoch != after.epoch || end.offset < after.offset {
        return None;
    }
    // A replica that was promoted just now, before any link has ended the epoch: its offsets may name other things.
    if its_home.is_some_and(|its_home| its_home != home(&server, &replication)) {
        return None;
    }
    let entries = entries(page);
    let is_whole = match entries.first() {
        Some(first) => first.offset == after.offset + 1,
        None => end.offset == after.offset,
    };
    let has_holes = entries
        .windows(2)
        .any(|pair| pair[0].offset + 1 != pair[1].offset);
    (is_whole && !has_holes).then_some(entries)
}

/// What `XRANGE` answers.
type Page = Vec<(String, HashMap<String, Vec<u8>>)>;

fn entries(page: Page) -> Vec<Entry> {
    page.into_iter()
        .filter_map(|(id, mut fields)| {
            Some(Entry {
                offset: id.split_once('-')?.0.parse().ok()?,
                payload: fields.remove("e")?,
            })
        })
        .collect()
}

/// What `HMGET` answers.
pub(super) type Standing = (Option<String>, Option<u64>);

fn place(epoch: Option<String>, offset: Option<u64>) -> Option<Place> {
    Some(Place {
        epoch: u64::from_str_radix(&epoch?, 16).ok()?,
        offset: offset.unwrap_or(0),
    })
}

/// The key of the stream's hash.
pub(super) fn stream_key(commands: &Commands) -> String {
    commands.name("stream")
}

/// The key of the history.
pub(super) fn history_key(commands: &Commands) -> String {
    commands.name("history")
}

/// A name for an epoch that may begin. Another for each call: a Redis emptied twice begins two epochs.
pub(super) fn epoch_name() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// The name of a Redis, of what INFO says: its process, and whose data it follows.
fn home(server: &str, replication: &str) -> String {
    let process = field(server, "run_id");
    format!("{process}/{}", field(replication, "master_replid"))
}

/// A line of what INFO says; empty where it is not there.
fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
}

/// Which rooms are heard, each from which offset on: what came up to there was before its subscription.
#[derive(Debug, Clone, Default)]
pub(super) struct HeardRooms {
    /// Whose offsets these are.
    epoch: Option<u64>,
    since: HashMap<Room, u64>,
}

impl HeardRooms {
    /// Rooms are heard from a place on.
    pub(super) fn add(&mut self, rooms: &[Room], from: &Place) {
        if self.epoch != Some(from.epoch) {
            // All of the new epoch came after them.
            self.since.values_mut().for_each(|since| *since = 0);
            self.epoch = Some(from.epoch);
        }
        for room in rooms {
            self.since.insert(*room, from.offset);
        }
    }

    /// Rooms are heard from before the next epoch on.
    pub(super) fn add_from_start(&mut self, rooms: &[Room]) {
        for room in rooms {
            self.since.insert(*room, 0);
        }
    }

    /// As `add`, for those that are not heard already.
    pub(super) fn add_missing(&mut self, rooms: &[Room], from: &Place) {
        let missing: Vec<Room> = rooms
            .iter()
            .copied()
            .filter(|room| !self.since.contains_key(room))
            .collect();
        self.add(&missing, from);
    }

    pub(super) fn remove(&mut self, rooms: &[Room]) {
        for room in rooms {
            self.since.remove(room);
        }
    }

    /// Whether a room was heard when something was published at an offset of this epoch.
    pub(super) fn was_heard(&self, room: Room, offset: u64) -> bool {
        self.since.get(&room).is_some_and(|since| offset > *since)
    }
}

#[cfg(test)]
mod tests {
    use shared::UserId;

    use super::*;

    const fn place(epoch: u64, offset: u64) -> Place {
        Place { epoch, offset }
    }

    #[test]
    fn a_room_is_heard_from_its_subscription_on() {
        let (early, late) = (Room::User(UserId::new(1)), Room::User(UserId::new(2)));
        let mut heard = HeardRooms::default();
        heard.add(&[early], &place(0xa, 5));
        heard.add_missing(&[early, late], &place(0xa, 9));
        let at =
            |heard: &HeardRooms, offset| [early, late].map(|room| heard.was_heard(room, offset));
        assert_eq!(at(&heard, 5), [false, false]);
        assert_eq!(at(&heard, 9), [true, false]);
        assert_eq!(at(&heard, 10), [true, true]);
        // In an epoch that began later, all is after them.
        heard.add(&[], &place(0xb, 3));
        assert_eq!(at(&heard, 1), [true, true]);
        heard.remove(&[early]);
        assert_eq!(at(&heard, 100), [false, true]);
    }

    #[test]
    fn info_is_read_by_line() {
        let info = "# Server\r\nrun_id:ab12\r\nrun_id_too:x\r\n";
        assert_eq!(field(info, "run_id"), "ab12");
        assert_eq!(field(info, "role"), "");
    }
}
