//! Socket.IO packets as they come in. The input is the text of an Engine.IO message.
//!
//! Held against a second reading of the grammar `<type>[<attachments>-][<namespace>,][<ack id>][<JSON>]`, which goes the
//! long way round: it takes the whole text apart before it looks at any of it, and reads a packet's array in one piece.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use shared::protocol::socket_io::{
    Args, Body, Packet, RESERVED_EVENTS, decode, write_ack, write_connect_error, write_disconnect,
    write_event,
};

/// The gateway's own limit is ten; fewer, so that inputs come near it.
const MAX_ATTACHMENTS: usize = 3;

/// What is read is what the grammar says, keeps to the limits, and is read the same once written again.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let packet = decode(text, MAX_ATTACHMENTS).ok();
    let shown = packet.as_ref().map(show);
    assert_eq!(shown, reference(text), "{text:?}");
    let Some(packet) = packet else { return };
    within_limits(&packet);
    if let Some(again) = write(&packet) {
        let read =
            decode(&again, MAX_ATTACHMENTS).unwrap_or_else(|error| panic!("{error}: {again:?}"));
        assert_eq!(Some(show(&read)), shown, "{text:?} -> {again:?}");
    }
}

fn within_limits(packet: &Packet<'_>) {
    assert!(packet.namespace.starts_with('/') && !packet.namespace.contains(','));
    if let Body::Event {
        name, attachments, ..
    } = &packet.body
    {
        assert!(!RESERVED_EVENTS.contains(&name.as_str()));
        assert!(*attachments <= MAX_ATTACHMENTS);
    }
    if let Body::Ack { attachments, .. } = &packet.body {
        assert!(*attachments <= MAX_ATTACHMENTS);
    }
}

/// A packet as the gateway would write it; `None` for a CONNECT of a client, which it never writes.
fn write(packet: &Packet<'_>) -> Option<String> {
    let mut out = String::new();
    let namespace = packet.namespace;
    match &packet.body {
        Body::Connect(_) => return None,
        Body::Disconnect => write_disconnect(&mut out, namespace),
        Body::Event {
            name,
            args,
            id,
            attachments,
        } => write_event(
            &mut out,
            namespace,
            *id,
            name,
            Args::All(args),
            *attachments,
        ),
        Body::Ack {
            id,
            args,
            attachments,
        } => write_ack(&mut out, namespace, *id, Args::All(args), *attachments),
        Body::ConnectError(error) => {
            // The writer knows one form only: of any other there is nothing to write.
            let value: Value = serde_json::from_str(error.get()).ok()?;
            let message = value.get("message")?.as_str()?;
            let known = serde_json::to_string(&json!({ "message": message })).ok()?;
            if error.get() != known {
                return None;
            }
            write_connect_error(&mut out, namespace, message, None);
        }
    }
    Some(out)
}

/// A packet in one line for comparisons, its JSON taken apart one level deep: white space between the values of an array
/// is nobody's business.
pub(crate) fn show(packet: &Packet<'_>) -> String {
    let body = match &packet.body {
        Body::Connect(None) => "connect".to_owned(),
        Body::Connect(Some(auth)) => format!("connect {}", auth.get()),
        Body::Disconnect => "disconnect".to_owned(),
        Body::Event {
            name,
            args,
            id,
            attachments,
        } => event(name, *id, &values(args.get()).unwrap(), *attachments),
        Body::Ack {
            id,
            args,
            attachments,
        } => ack(*id, &values(args.get()).unwrap(), *attachments),
        Body::ConnectError(error) => format!("connect_error {}", error.get()),
    };
    format!("{} {body}", packet.namespace)
}

fn event(name: &str, id: Option<u64>, args: &[&str], attachments: usize) -> String {
    format!("event {name:?} {id:?} {args:?} {attachments}")
}

fn ack(id: u64, args: &[&str], attachments: usize) -> String {
    format!("ack {id} {args:?} {attachments}")
}

/// The values of a JSON array.
fn values(json: &str) -> Option<Vec<&str>> {
    let values: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    Some(values.into_iter().map(RawValue::get).collect())
}

/// The second reading: what `show` makes of the packet, `None` where there is none.
fn reference(text: &str) -> Option<String> {
    let mut chars = text.chars().peekable();
    let kind = chars.next()?;
    let mut attachments = None;
    if matches!(kind, '5' | '6') {
        let number: String = chars.by_ref().take_while(|c| *c != '-').collect();
        let number = digits(&number)?;
        // Where there was no dash, nothing is left, and no packet of these kinds ends here.
        attachments = Some(number);
    }
    let mut namespace = String::from("/");
    if chars.peek() == Some(&'/') {
        namespace = chars.by_ref().take_while(|c| *c != ',').collect();
    }
    let mut id = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        id.push(digit);
    }
    let id = match id.as_str() {
        "" => None,
        id => Some(digits(id)?),
    };
    let json: String = chars.collect();
    let whole: Option<&RawValue> = serde_json::from_str(&json).ok();
    let begins = |with: &[char]| {
        whole
            .map(RawValue::get)
            .filter(|json| json.starts_with(with))
    };
    let count = usize::try_from(attachments.unwrap_or(0)).ok()?;
    if count > MAX_ATTACHMENTS {
        return None;
    }
    let body = match (kind, id) {
        ('0', None) if json.is_empty() => "connect".to_owned(),
        ('0', None) => format!("connect {}", begins(&['{'])?),
        ('1', None) if json.is_empty() => "disconnect".to_owned(),
        ('2' | '5', id) => {
            let values = values(&json)?;
            let (first, args) = values.split_first()?;
            let name = match first.chars().next()? {
                '"' => serde_json::from_str::<String>(first).ok()?,
                '-' | '0'..='9' => (*first).to_owned(),
                _ => return None,
            };
            if RESERVED_EVENTS.contains(&name.as_str()) {
                return None;
            }
            event(&name, id, args, count)
        }
        ('3' | '6', Some(id)) => ack(id, &values(&json)?, count),
        ('4', None) => format!("connect_error {}", begins(&['{', '"'])?),
        _ => return None,
    };
    Some(format!("{namespace} {body}"))
}

fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}
