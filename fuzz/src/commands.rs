//! What clients ask for. The input is the JSON payload of an event or the body of a REST call.

use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::command::{
    Authenticate, ConversationRef, Draft, MarkAsRead, SendMessage, Sync, SyncPosition, Typing,
};

/// What is taken bears what its JSON bears and nothing else, and no id that can't be.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return;
    };
    // The doors let objects in only: serde would take an array for the fields in their order.
    if !value.is_object() {
        return;
    }
    if let Some(ConversationRef { conversation_id }) = read(text) {
        assert_id(&value["conversationId"], conversation_id.get(), 1);
    }
    if let Some(typing) = read::<Typing>(text) {
        assert_id(&value["conversationId"], typing.conversation_id.get(), 1);
        assert_eq!(value["isTyping"].as_bool(), Some(typing.is_typing));
    }
    if let Some(read_mark) = read::<MarkAsRead>(text) {
        assert_id(&value["conversationId"], read_mark.conversation_id.get(), 1);
        match read_mark.up_to_seq {
            Some(seq) => assert_id(&value["upToSeq"], seq.get(), 0),
            None => assert!(value["upToSeq"].is_null()),
        }
    }
    messages(text, &value);
    sync(text, &value);
    if let Some(authenticate) = read::<Authenticate>(text) {
        assert_eq!(value["token"].as_str(), Some(authenticate.token.as_str()));
        assert_eq!(format!("{authenticate:?}"), "Authenticate { .. }");
    }
}

fn messages(text: &str, value: &Value) {
    let draft = read::<Draft>(text);
    if let Some(draft) = &draft {
        // Kept exactly as sent.
        assert_eq!(value["message"].as_str(), Some(draft.message.as_str()));
        assert_eq!(
            value["clientMessageId"].as_str(),
            draft.client_message_id.as_deref()
        );
    }
    // The two types repeat each other: they must take the same.
    let sent = read::<SendMessage>(text);
    let place = read::<ConversationRef>(text);
    assert_eq!(sent.is_some(), draft.is_some() && place.is_some());
    if let (Some(sent), Some(draft), Some(place)) = (sent, draft, place) {
        assert_eq!(sent.conversation_id, place.conversation_id);
        assert_eq!(
            (sent.message, sent.client_message_id),
            (draft.message, draft.client_message_id)
        );
    }
}

fn sync(text: &str, value: &Value) {
    let Some(sync) = read::<Sync>(text) else {
        return;
    };
    assert_eq!(value["limit"].as_i64(), sync.limit);
    let Some(positions) = sync.conversations else {
        return assert!(value["conversations"].is_null());
    };
    let sent = value["conversations"].as_array().unwrap();
    assert_eq!(sent.len(), positions.len());
    for (sent, position) in sent.iter().zip(positions) {
        let SyncPosition {
            conversation_id,
            after_event_seq,
        } = position;
        assert!(
            sent.is_object(),
            "an array was taken for a position: {sent}"
        );
        assert_id(&sent["conversationId"], conversation_id.get(), 1);
        assert_id(&sent["afterEventSeq"], after_event_seq.get(), 0);
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// An id came from a number or from digits, and is in its range.
fn assert_id(sent: &Value, id: i64, least: i64) {
    assert!(id >= least);
    let number = match sent {
        Value::String(digits) => digits.parse().ok(),
        sent => sent.as_i64(),
    };
    assert_eq!(number, Some(id), "{sent}");
}
