//! Socket.IO packets as they go out: whatever a program hands to the writers, a client reads as just that.
//!
//! The input is a packet in lines: `event|ack|connect|error|disconnect NAMESPACE ID ATTACHMENTS`, then the event's name
//! or the words of the error, then the arguments as JSON (what is no JSON counts as a string).

use serde_json::value::RawValue;
use shared::protocol::socket_io::{
    Args, Body, RESERVED_EVENTS, decode, write_ack, write_connect, write_connect_error,
    write_disconnect, write_event,
};

use crate::socket_io::show;

/// More than anything here announces.
const MAX_ATTACHMENTS: usize = 255;

/// What is written is read, whole and unchanged.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let mut head = lines.next().unwrap_or_default().split(' ');
    let name = lines.next().unwrap_or_default();
    let args = json(lines.next().unwrap_or("null"));
    let kind = head.next().unwrap_or_default();
    let namespace = format!("/{}", head.next().unwrap_or_default());
    let id: Option<u64> = head.next().and_then(|id| id.parse().ok());
    let attachments = usize::from(head.next().and_then(|n| n.parse::<u8>().ok()).unwrap_or(0));
    // No client can ask for such a namespace, and the gateway writes none but those asked for.
    if namespace.contains(',') {
        return;
    }
    let mut out = String::new();
    match (kind, id) {
        ("event", _) if RESERVED_EVENTS.contains(&name) => {}
        ("event", _) => {
            write_event(
                &mut out,
                &namespace,
                id,
                name,
                Args::All(&args),
                attachments,
            );
            let packet = read(&out, &namespace);
            let Body::Event {
                name: n,
                args: a,
                id: i,
                attachments: c,
            } = packet
            else {
                panic!("not an event: {out:?}");
            };
            assert_eq!((n.as_str(), i, c), (name, id, attachments));
            assert_same_values(&a, &args);
        }
        ("ack", Some(id)) => {
            write_ack(&mut out, &namespace, id, Args::One(&args), attachments);
            let Body::Ack {
                id: i,
                args: a,
                attachments: c,
            } = read(&out, &namespace)
            else {
                panic!("not an answer: {out:?}");
            };
            assert_eq!((i, c), (id, attachments));
            let values: Vec<&RawValue> = serde_json::from_str(a.get()).unwrap();
            assert_eq!(values.len(), 1);
            assert_eq!(values[0].get(), args.get());
        }
        ("connect", id) => {
            let pid = id.map(|_| name);
            write_connect(&mut out, &namespace, name, pid);
            let Body::Connect(Some(auth)) = read(&out, &namespace) else {
                panic!("not a CONNECT: {out:?}");
            };
            let sid: serde_json::Value = serde_json::from_str(auth.get()).unwrap();
            let mut wanted = serde_json::json!({ "sid": name });
            if let Some(pid) = pid {
                wanted["pid"] = pid.into();
            }
            assert_eq!(sid, wanted);
        }
        ("error", id) => {
            write_connect_error(&mut out, &namespace, name, id.map(|_| &*args));
            let Body::ConnectError(error) = read(&out, &namespace) else {
                panic!("not a CONNECT_ERROR: {out:?}");
            };
            #[derive(serde::Deserialize)]
            struct Error {
                message: String,
                data: Option<Box<RawValue>>,
            }
            let error: Error = serde_json::from_str(error.get()).unwrap();
            assert_eq!(error.message, name);
            let wanted = id.map(|_| args.get()).filter(|data| *data != "null");
            assert_eq!(error.data.as_deref().map(RawValue::get), wanted);
        }
        ("disconnect", _) => {
            write_disconnect(&mut out, &namespace);
            assert!(matches!(read(&out, &namespace), Body::Disconnect));
        }
        _ => {}
    }
}

fn read(text: &str, namespace: &str) -> Body {
    let packet = decode(text, MAX_ATTACHMENTS).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert_eq!(packet.namespace, namespace, "{}", show(&packet));
    packet.body
}

/// `args` is an array that holds what `written` held: its values, or itself where it was none.
fn assert_same_values(args: &RawValue, written: &RawValue) {
    let args: Vec<&RawValue> = serde_json::from_str(args.get()).unwrap();
    let wanted: Vec<&RawValue> = serde_json::from_str(written.get()).unwrap_or(vec![written]);
    let texts = |values: &[&RawValue]| {
        values
            .iter()
            .map(|v| v.get().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(texts(&args), texts(&wanted));
}

fn json(text: &str) -> Box<RawValue> {
    serde_json::from_str::<&RawValue>(text).map_or_else(
        |_| serde_json::value::to_raw_value(text).unwrap(),
        ToOwned::to_owned,
    )
}
