//! Socket.IO protocol 5: its packets, as they stand in Engine.IO messages. The binary attachments that follow a packet
//! are gathered by whoever reads the messages; acknowledgements and namespaces as such are not here either.
//!
//! Source: `docs/socket.io-protocol/v5-current.md` of the Socket.IO repository. A packet is written
//! `<type>[<attachments>-][<namespace>,][<ack id>][<JSON>]`.

use serde_json::value::RawValue;

/// The namespace that needs no name on the wire.
pub const MAIN_NAMESPACE: &str = "/";

/// Names that a client's library keeps for itself: an event so called is no event.
/// Source: `RESERVED_EVENTS` of the reference parser.
pub const RESERVED_EVENTS: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// One packet, without its attachments.
#[derive(Debug)]
pub struct Packet<'a> {
    /// Which namespace it is for.
    pub namespace: &'a str,
    /// What it says.
    pub body: Body,
}

/// What a packet says.
#[derive(Debug)]
pub enum Body {
    /// 0: asks to come in, with an `auth` object.
    Connect(Option<Box<RawValue>>),
    /// 1: leaves.
    Disconnect,
    /// 2, and 5 with attachments: an event.
    Event {
        /// Its name.
        name: String,
        /// Its arguments after the name: a JSON array.
        args: Box<RawValue>,
        /// Where an answer is asked for, the number it bears.
        id: Option<u64>,
        /// How many binary messages follow.
        attachments: usize,
    },
    /// 3, and 6 with attachments: the answer to an event.
    Ack {
        /// The number of the event it answers.
        id: u64,
        /// Its arguments: a JSON array.
        args: Box<RawValue>,
        /// How many binary messages follow.
        attachments: usize,
    },
    /// 4: was not let in; server to client only.
    ConnectError(Box<RawValue>),
}

/// Why a message is no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Nothing at all.
    #[error("an empty packet")]
    Empty,
    /// A type that does not exist.
    #[error("an unknown packet type")]
    UnknownType,
    /// A number of attachments that is none.
    #[error("an illegal number of attachments")]
    Attachments,
    /// More attachments than allowed.
    #[error("too many attachments")]
    TooManyAttachments,
    /// An acknowledgement id where none may be, none where one must be, or one too large.
    #[error("an illegal acknowledgement id")]
    AckId,
    /// A payload that is missing, is not JSON, or not of the kind that the type asks for.
    #[error("an invalid payload")]
    Payload,
    /// An event with a name that is reserved.
    #[error("a reserved event name")]
    ReservedEvent,
}

/// Reads a message. A packet that announces more than `max_attachments` is refused.
pub fn decode(text: &str, max_attachments: usize) -> Result<Packet<'_>, PacketError> {
    let kind = *text.as_bytes().first().ok_or(PacketError::Empty)?;
    if !kind.is_ascii_digit() || kind > b'6' {
        return Err(PacketError::UnknownType);
    }
    let rest = &text[1..];
    let (attachments, rest) = match kind {
        b'5' | b'6' => split_attachments(rest, max_attachments)?,
        _ => (0, rest),
    };
    let (namespace, rest) = split_namespace(rest);
    let (id, payload) = split_id(rest)?;
    if id.is_some() && !matches!(kind, b'2' | b'3' | b'5' | b'6') {
        return Err(PacketError::AckId);
    }
    let body = match kind {
        b'0' => Body::Connect(match payload {
            "" => None,
            _ => Some(raw(payload, b"{")?),
        }),
        b'1' if payload.is_empty() => Body::Disconnect,
        b'1' => return Err(PacketError::Payload),
        b'2' | b'5' => {
            let (name, args) = split_event(payload)?;
            Body::Event {
                name,
                args,
                id,
                attachments,
            }
        }
        b'3' | b'6' => Body::Ack {
            id: id.ok_or(PacketError::AckId)?,
            args: raw(payload, b"[")?,
            attachments,
        },
        _ => Body::ConnectError(raw(payload, b"{\"")?),
    };
    Ok(Packet { namespace, body })
}

/// Writes the answer to a CONNECT: the socket's id.
///
/// `pid` names the connection state that the client may recover: it shows it when it comes back, and takes the answer with
/// the same one for a recovery (<https://socket.io/docs/v4/connection-state-recovery>).
pub fn write_connect(out: &mut String, namespace: &str, sid: &str, pid: Option<&str>) {
    write_head(out, '0', namespace, None, 0);
    out.push_str("{\"sid\":");
    write_string(out, sid);
    if let Some(pid) = pid {
        out.push_str(",\"pid\":");
        write_string(out, pid);
    }
    out.push('}');
}

/// Writes a CONNECT_ERROR: `message` in words, `data` for programs.
pub fn write_connect_error(
    out: &mut String,
    namespace: &str,
    message: &str,
    data: Option<&RawValue>,
) {
    write_head(out, '4', namespace, None, 0);
    out.push_str("{\"message\":");
    write_string(out, message);
    if let Some(data) = data {
        out.push_str(",\"data\":");
        out.push_str(data.get());
    }
    out.push('}');
}

/// Writes a DISCONNECT.
pub fn write_disconnect(out: &mut String, namespace: &str) {
    write_head(out, '1', namespace, None, 0);
}

/// Writes an EVENT, or a BINARY_EVENT where attachments follow, with `args` after its name.
pub fn write_event(
    out: &mut String,
    namespace: &str,
    id: Option<u64>,
    name: &str,
    args: Args<'_>,
    attachments: usize,
) {
    let kind = if attachments == 0 { '2' } else { '5' };
    write_head(out, kind, namespace, id, attachments);
    out.push('[');
    write_string(out, name);
    let values = args.inner();
    if !values.is_empty() {
        out.push(',');
        out.push_str(values);
    }
    if let Args::OneAt(_, offset) = args {
        out.push(',');
        write_string(out, offset);
    }
    out.push(']');
}

/// Writes an ACK, or a BINARY_ACK where attachments follow.
pub fn write_ack(out: &mut String, namespace: &str, id: u64, args: Args<'_>, attachments: usize) {
    let kind = if attachments == 0 { '3' } else { '6' };
    write_head(out, kind, namespace, Some(id), attachments);
    out.push('[');
    out.push_str(args.inner());
    out.push(']');
}

/// What an event or an answer bears.
#[derive(Debug, Clone, Copy)]
pub enum Args<'a> {
    /// One value.
    One(&'a RawValue),
    /// One value, and where it stands in the order of what the client may recover: a client that has a `pid` takes the last
    /// argument of an event, where it is a string, for that.
    OneAt(&'a RawValue, &'a str),
    /// The values of a JSON array; anything else counts as one value.
    All(&'a RawValue),
}

impl<'a> Args<'a> {
    /// What stands between the brackets.
    fn inner(self) -> &'a str {
        match self {
            Self::One(value) | Self::OneAt(value, _) => value.get(),
            Self::All(value) => value
                .get()
                .strip_prefix('[')
                .and_then(|text| text.strip_suffix(']'))
                .map_or(value.get(), |text| text.trim_matches(JSON_SPACE)),
        }
    }
}

const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

fn split_attachments(text: &str, max: usize) -> Result<(usize, &str), PacketError> {
    let (number, rest) = text.split_once('-').ok_or(PacketError::Attachments)?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PacketError::Attachments);
    }
    // A number too large for its type is too large for any limit.
    match number.parse::<usize>() {
        Ok(number) if number <= max => Ok((number, rest)),
        _ => Err(PacketError::TooManyAttachments),
    }
}

fn split_namespace(text: &str) -> (&str, &str) {
    if !text.starts_with('/') {
        return (MAIN_NAMESPACE, text);
    }
    text.split_once(',').unwrap_or((text, ""))
}

fn split_id(text: &str) -> Result<(Option<u64>, &str), PacketError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Ok((None, text));
    }
    let id = text[..digits].parse().map_err(|_| PacketError::AckId)?;
    Ok((Some(id), &text[digits..]))
}

/// Checks that `text` is one JSON value that begins with one of `starts`.
fn raw(text: &str, starts: &[u8]) -> Result<Box<RawValue>, PacketError> {
    let value: &RawValue = serde_json::from_str(text).map_err(|_| PacketError::Payload)?;
    match value.get().as_bytes().first() {
        Some(first) if starts.contains(first) => Ok(value.to_owned()),
        _ => Err(PacketError::Payload),
    }
}

/// Takes the name off an event's array. The rest is looked at once, to see that it is JSON, and never made into a tree.
fn split_event(payload: &str) -> Result<(String, Box<RawValue>), PacketError> {
    let inside = payload
        .trim_matches(JSON_SPACE)
        .strip_prefix('[')
        .ok_or(PacketError::Payload)?;
    let mut values = serde_json::Deserializer::from_str(inside).into_iter::<&RawValue>();
    let first = values
        .next()
        .and_then(Result::ok)
        .ok_or(PacketError::Payload)?;
    let name = event_name(first.get())?;
    let rest = inside[values.byte_offset()..].trim_start_matches(JSON_SPACE);
    // A comma less, a bracket more: the text is kept as it is made, without being moved to a place of its size.
    let mut args = String::with_capacity(rest.len() + usize::from(!rest.starts_with(',')));
    args.push('[');
    match rest.strip_prefix(',') {
        // `["name",]` would turn into `[]`.
        Some(rest) if rest.trim_start_matches(JSON_SPACE).starts_with(']') => {
            return Err(PacketError::Payload);
        }
        Some(rest) => args.push_str(rest),
        None if rest.starts_with(']') => args.push_str(rest),
        None => return Err(PacketError::Payload),
    }
    // Says no where the rest does not end the array just here.
    let args = RawValue::from_string(args).map_err(|_| PacketError::Payload)?;
    Ok((name, args))
}

/// A string, or a number: the reference parser lets both through.
fn event_name(json: &str) -> Result<String, PacketError> {
    match json.as_bytes().first() {
        Some(b'"') => {
            let name: String = serde_json::from_str(json).map_err(|_| PacketError::Payload)?;
            if RESERVED_EVENTS.contains(&name.as_str()) {
                return Err(PacketError::ReservedEvent);
            }
            Ok(name)
        }
        Some(b'-' | b'0'..=b'9') => Ok(json.to_owned()),
        _ => Err(PacketError::Payload),
    }
}

fn write_head(out: &mut String, kind: char, namespace: &str, id: Option<u64>, attachments: usize) {
    use std::fmt::Write as _;

    out.push(kind);
    if attachments > 0 {
        let _ = write!(out, "{attachments}-");
    }
    if namespace != MAIN_NAMESPACE {
        out.push_str(namespace);
        out.push(',');
    }
    if let Some(id) = id {
        let _ = write!(out, "{id}");
    }
}

/// Writes a JSON string.
pub(super) fn write_string(out: &mut String, text: &str) {
    // Names and places in the order of things, as they come: there is nothing to escape (RFC 8259, section 7).
    if !text
        .bytes()
        .any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\')
    {
        out.push('"');
        out.push_str(text);
        out.push('"');
        return;
    }
    // A string can always be written.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(text: &str) -> Result<String, PacketError> {
        decode(text, 2).map(|packet| format!("{} {:?}", packet.namespace, packet.body))
    }

    #[test]
    fn packets_are_read() {
        for (text, shown) in [
            ("0", "/ Connect(None)"),
            (
                "0{\"token\":\"123\"}",
                "/ Connect(Some(RawValue({\"token\":\"123\"})))",
            ),
            ("0/custom,", "/custom Connect(None)"),
            ("0/random", "/random Connect(None)"),
            ("1", "/ Disconnect"),
            ("1/admin,", "/admin Disconnect"),
            (
                "2[\"foo\"]",
                "/ Event { name: \"foo\", args: RawValue([]), id: None, attachments: 0 }",
            ),
            (
                "2/admin,12 [ \"f\\u006fo\" , 1, [2] ] ",
                "/admin Event { name: \"foo\", args: RawValue([ 1, [2] ]), id: Some(12), attachments: 0 }",
            ),
            (
                "2[7,\"a\"]",
                "/ Event { name: \"7\", args: RawValue([\"a\"]), id: None, attachments: 0 }",
            ),
            (
                "312[]",
                "/ Ack { id: 12, args: RawValue([]), attachments: 0 }",
            ),
            (
                "52-/admin,7[\"baz\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]",
                "/admin Event { name: \"baz\", args: RawValue([{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]), id: Some(7), attachments: 2 }",
            ),
            (
                "61-15[{\"_placeholder\":true,\"num\":0}]",
                "/ Ack { id: 15, args: RawValue([{\"_placeholder\":true,\"num\":0}]), attachments: 1 }",
            ),
            (
                "4{\"message\":\"no\"}",
                "/ ConnectError(RawValue({\"message\":\"no\"}))",
            ),
        ] {
            assert_eq!(show(text).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn what_is_no_packet_is_told_apart() {
        for (text, error) in [
            ("", PacketError::Empty),
            ("abc", PacketError::UnknownType),
            ("7", PacketError::UnknownType),
            ("é", PacketError::UnknownType),
            ("0[]", PacketError::Payload),
            ("0\"token\"", PacketError::Payload),
            ("0{", PacketError::Payload),
            ("05{}", PacketError::AckId),
            ("1{}", PacketError::Payload),
            ("2", PacketError::Payload),
            ("2{}", PacketError::Payload),
            ("2[]", PacketError::Payload),
            ("2[null]", PacketError::Payload),
            ("2[\"a\",]", PacketError::Payload),
            ("2[\"a\" 1]", PacketError::Payload),
            ("2[\"a\",1]]", PacketError::Payload),
            ("2[\"a\",1", PacketError::Payload),
            ("2[\"a\"", PacketError::Payload),
            ("2[\"a\"][\"b\"]", PacketError::Payload),
            ("2abc[\"a\"]", PacketError::Payload),
            ("2-1[\"a\"]", PacketError::Payload),
            ("299999999999999999999[\"a\"]", PacketError::AckId),
            ("2[\"connect\"]", PacketError::ReservedEvent),
            ("2[\"disconnecting\",1]", PacketError::ReservedEvent),
            ("3[]", PacketError::AckId),
            ("31{}", PacketError::Payload),
            ("31", PacketError::Payload),
            ("5[\"a\"]", PacketError::Attachments),
            ("5-[\"a\"]", PacketError::Attachments),
            ("5+1-[\"a\"]", PacketError::Attachments),
            ("51.5-[\"a\"]", PacketError::Attachments),
            ("53-[\"a\"]", PacketError::TooManyAttachments),
            (
                "599999999999999999999999-[\"a\"]",
                PacketError::TooManyAttachments,
            ),
        ] {
            assert_eq!(show(text), Err(error), "{text}");
        }
    }

    #[test]
    fn packets_are_written() {
        let value = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let written = |write: &dyn Fn(&mut String)| {
            let mut out = String::new();
            write(&mut out);
            out
        };
        assert_eq!(
            written(&|out| write_connect(out, "/custom", "a\"b", None)),
            r#"0/custom,{"sid":"a\"b"}"#
        );
        assert_eq!(
            written(&|out| write_connect(out, "/", "a", Some("b"))),
            r#"0{"sid":"a","pid":"b"}"#
        );
        assert_eq!(
            written(&|out| write_connect_error(out, "/random", "Invalid namespace", None)),
            r#"4/random,{"message":"Invalid namespace"}"#
        );
        assert_eq!(
            written(&|out| write_connect_error(out, "/", "no", Some(&value(r#"{"code":"X"}"#)))),
            r#"4{"message":"no","data":{"code":"X"}}"#
        );
        assert_eq!(written(&|out| write_disconnect(out, "/")), "1");
        let args = value("[ 1,\"2\" ]");
        assert_eq!(
            written(&|out| write_event(out, "/", None, "e", Args::All(&args), 0)),
            r#"2["e",1,"2"]"#
        );
        assert_eq!(
            written(&|out| write_event(out, "/x", Some(3), "e", Args::One(&args), 2)),
            r#"52-/x,3["e",[ 1,"2" ]]"#
        );
        assert_eq!(
            written(&|out| write_event(out, "/", None, "e", Args::OneAt(&args, "o\"1"), 0)),
            r#"2["e",[ 1,"2" ],"o\"1"]"#
        );
        assert_eq!(
            written(&|out| write_event(out, "/", None, "e", Args::All(&value("[ ]")), 0)),
            r#"2["e"]"#
        );
        assert_eq!(
            written(&|out| write_ack(out, "/", 456, Args::All(&args), 1)),
            r#"61-456[1,"2"]"#
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            namespace in "/[a-z]{0,8}", id: Option<u64>, name: String, numbers: Vec<i32>, attachments in 0_usize..3,
        ) {
            prop_assume!(!RESERVED_EVENTS.contains(&name.as_str()));
            let args = RawValue::from_string(serde_json::to_string(&numbers).unwrap()).unwrap();
            let mut text = String::new();
            write_event(&mut text, &namespace, id, &name, Args::All(&args), attachments);
            let packet = decode(&text, 2).unwrap();
            prop_assert_eq!(packet.namespace, &namespace);
            let Body::Event { name: name2, args: args2, id: id2, attachments: attachments2 } = packet.body else {
                panic!("not an event: {text}");
            };
            prop_assert_eq!((name2, id2, attachments2), (name, id, attachments));
            prop_assert_eq!(args2.get(), args.get());
        }

        #[test]
        fn no_input_panics(kind in "[0-6]?", text in ".*") {
            let _ = decode(&format!("{kind}{text}"), 2);
        }
    }
}
