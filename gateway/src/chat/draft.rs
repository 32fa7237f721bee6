//! What a message must be to be taken: parsed once at the door, so that nothing behind it checks again.

use shared::ErrorCode;
use shared::command::Draft;

use crate::failure::Failure;

/// The most characters (code points) a message may have, outer white space not counted.
pub const MAX_MESSAGE_CHARS: usize = 5_000;

/// The most bytes a message may have, outer white space included: what a MySQL `TEXT` holds.
const MAX_MESSAGE_BYTES: usize = 65_535;

/// The most characters a `clientMessageId` may have.
const MAX_CLIENT_MESSAGE_ID_CHARS: usize = 64;

/// Takes a draft that may be stored, or says what is wrong with it.
pub(super) fn check(draft: Draft) -> Result<Draft, Failure> {
    let text = draft.message.trim_matches(is_white_space);
    if text.is_empty() {
        return Err(Failure::new(
            ErrorCode::EmptyMessage,
            "a message needs more than white space",
        ));
    }
    if text.chars().count() > MAX_MESSAGE_CHARS {
        return Err(Failure::validation(
            "message must have at most 5000 characters",
        ));
    }
    if draft.message.len() > MAX_MESSAGE_BYTES {
        return Err(Failure::validation(
            "message must have at most 65535 bytes, outer white space included",
        ));
    }
    if let Some(id) = &draft.client_message_id {
        let chars = id.chars().count();
        if chars == 0 || chars > MAX_CLIENT_MESSAGE_ID_CHARS {
            return Err(Failure::validation(
                "clientMessageId must have 1 to 64 characters",
            ));
        }
    }
    Ok(draft)
}

/// White space as Unicode or JavaScript has it: `String.prototype.trim` also takes the byte order mark.
fn is_white_space(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(message: &str, id: Option<&str>) -> Option<ErrorCode> {
        let draft = Draft {
            message: message.to_owned(),
            client_message_id: id.map(str::to_owned),
        };
        check(draft).err().map(|failure| failure.code)
    }

    #[test]
    fn length_is_counted_in_code_points_without_outer_white_space() {
        assert_eq!(code("a", None), None);
        assert_eq!(code(&"\u{1f600}".repeat(5_000), None), None);
        assert_eq!(code(&format!("  {}\n", "a".repeat(5_000)), None), None);
        assert_eq!(
            code(&"a".repeat(5_001), None),
            Some(ErrorCode::ValidationError)
        );
        assert_eq!(
            code(&format!("a{}", " ".repeat(70_000)), None),
            Some(ErrorCode::ValidationError)
        );
    }

    #[test]
    fn white_space_alone_is_empty() {
        for text in ["", " ", "\t\r\n", "\u{a0}\u{3000}\u{feff}"] {
            assert_eq!(code(text, None), Some(ErrorCode::EmptyMessage), "{text:?}");
        }
    }

    #[test]
    fn client_message_ids_are_bounded() {
        assert_eq!(code("a", Some(&"x".repeat(64))), None);
        assert_eq!(code("a", Some("")), Some(ErrorCode::ValidationError));
        assert_eq!(
            code("a", Some(&"x".repeat(65))),
            Some(ErrorCode::ValidationError)
        );
    }
}
