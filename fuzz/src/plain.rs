//! The frames of plain sockets. The input is a WebSocket text frame.

use serde_json::Value;
use serde_json::value::RawValue;
use shared::protocol::plain::{decode, encode_ack, encode_event};

/// What is read says what its JSON says, and is read the same once written again.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let value = serde_json::from_str::<Value>(text);
    let Ok(frame) = decode(text) else {
        return refused(text, value.ok().as_ref());
    };
    // What no tree holds (a number beyond any, a nesting beyond any) may still pass through, unread, as data.
    if let Ok(value) = value {
        assert_eq!(value["event"].as_str(), Some(frame.event.as_str()));
        assert_eq!(value["id"].as_u64(), frame.id);
        assert!(value.get("id").is_none_or(Value::is_u64), "{text:?}");
        let data = frame
            .data
            .as_deref()
            .map(|data| serde_json::from_str(data.get()).unwrap());
        assert_eq!(
            value.get("data").filter(|data| !data.is_null()),
            data.as_ref()
        );
    }
    let data = frame.data.as_deref().unwrap_or(RawValue::NULL);
    let again = decode(&encode_event(&frame.event, data)).unwrap();
    assert_eq!(again.event, frame.event);
    assert_eq!(
        again.data.as_deref().map(RawValue::get),
        frame.data.as_deref().map(RawValue::get)
    );
    assert_eq!(again.id, None);
    if let Some(id) = frame.id {
        answer(id, data);
    }
}

/// Nothing that is a frame is refused.
fn refused(text: &str, value: Option<&Value>) {
    let Some(Value::Object(members)) = value else {
        return;
    };
    let event = members.get("event").is_some_and(Value::is_string);
    let id = members.get("id").is_none_or(|id| id.as_u64().is_some());
    // A tree takes the last of two members of one name; a frame with two is refused.
    let twice = ["event", "data", "id"]
        .iter()
        .any(|name| occurrences(text, name) > 1);
    assert!(!(event && id) || twice, "refused: {text:?}");
}

/// How often an object has a member of that name.
fn occurrences(text: &str, name: &str) -> usize {
    struct Count<'a>(&'a str);

    impl<'de> serde::de::DeserializeSeed<'de> for Count<'_> {
        type Value = usize;

        fn deserialize<D: serde::Deserializer<'de>>(
            self,
            deserializer: D,
        ) -> Result<usize, D::Error> {
            deserializer.deserialize_map(self)
        }
    }

    impl<'de> serde::de::Visitor<'de> for Count<'_> {
        type Value = usize;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
            let mut count = 0;
            while let Some(key) = map.next_key::<String>()? {
                count += usize::from(key == self.0);
                map.next_value::<serde::de::IgnoredAny>()?;
            }
            Ok(count)
        }
    }

    use serde::de::DeserializeSeed as _;
    Count(name)
        .deserialize(&mut serde_json::Deserializer::from_str(text))
        .unwrap_or_default()
}

fn answer(id: u64, data: &RawValue) {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        ack: u64,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let text = encode_ack(id, data);
    let answer: Answer<'_> = serde_json::from_str(&text).unwrap();
    assert_eq!((answer.ack, answer.data.get()), (id, data.get()));
}
