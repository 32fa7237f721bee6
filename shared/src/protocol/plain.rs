//! The frames of plain sockets: `{"event":"...","data":...,"id":7}` in, `{"event":"...","data":...}` and
//! `{"ack":7,"data":...}` out. One JSON object a WebSocket text frame.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::socket_io::write_string;

/// The event that opens a plain socket.
pub const AUTHENTICATE: &str = "authenticate";

/// A frame from a client.
#[derive(Debug, Deserialize)]
pub struct Incoming {
    /// The event's name.
    pub event: String,
    /// Its payload; `None` where there was none, or `null`.
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
    /// Where an answer is asked for, the number it bears.
    #[serde(default, deserialize_with = "whole_number")]
    pub id: Option<u64>,
}

/// Why a frame can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// It is not JSON, or bears no event, or an `id` that is no whole number.
    #[error("not a frame: {0}")]
    Invalid(#[from] serde_json::Error),
}

/// Reads a frame.
pub fn decode(text: &str) -> Result<Incoming, FrameError> {
    // Said here because serde takes an array for a struct, field by field.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(FrameError::NotAnObject);
    }
    Ok(serde_json::from_str(text)?)
}

/// Writes an event.
pub fn encode_event(name: &str, data: &RawValue) -> String {
    let mut out = String::with_capacity(name.len() + data.get().len() + 24);
    out.push_str("{\"event\":");
    write_string(&mut out, name);
    out.push_str(",\"data\":");
    out.push_str(data.get());
    out.push('}');
    out
}

/// Writes an answer.
pub fn encode_ack(id: u64, data: &RawValue) -> String {
    format!("{{\"ack\":{id},\"data\":{}}}", data.get())
}

/// A number: not `null`, and nothing with a sign, a fraction or an exponent.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_read() {
        let frame = decode(r#" {"event":"typing","data":{"a":[1]},"id":7,"more":1}"#).unwrap();
        assert_eq!((frame.event.as_str(), frame.id), ("typing", Some(7)));
        assert_eq!(frame.data.unwrap().get(), r#"{"a":[1]}"#);
        let frame = decode(r#"{"event":"x"}"#).unwrap();
        assert!(frame.data.is_none() && frame.id.is_none());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for text in [
            "",
            "x",
            "null",
            "[]",
            r#"["x",null,7]"#,
            "{}",
            r#"{"event":7}"#,
            r#"{"event":"x"} 1"#,
            r#"{"event":"x","event":"y"}"#,
            r#"{"event":"x","data":{}"#,
            r#"{"event":"x","id":null}"#,
            r#"{"event":"x","id":"7"}"#,
            r#"{"event":"x","id":-1}"#,
            r#"{"event":"x","id":1.5}"#,
            r#"{"event":"x","id":18446744073709551616}"#,
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn answers_are_written() {
        let data = RawValue::from_string("{\"success\":true}".to_owned()).unwrap();
        assert_eq!(encode_ack(7, &data), r#"{"ack":7,"data":{"success":true}}"#);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name: String, text: String) {
            let data = RawValue::from_string(serde_json::to_string(&text).unwrap()).unwrap();
            let frame = decode(&encode_event(&name, &data)).unwrap();
            prop_assert_eq!(frame.event, name);
            let data2 = frame.data.unwrap();
            prop_assert_eq!(data2.get(), data.get());
        }

        #[test]
        fn no_input_panics(text in ".*") {
            let _ = decode(&text);
        }
    }
}
