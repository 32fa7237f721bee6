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
    use proptest::prelude::*;

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

    /// What `String.prototype.trim` takes away (ECMA-262, `WhiteSpace` and `LineTerminator`), and U+0085, which only
    /// Unicode calls white.
    const WHITE: &str = "\t\u{b}\u{c} \u{a0}\u{feff}\n\r\u{2028}\u{2029}\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\
        \u{2004}\u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{202f}\u{205f}\u{3000}\u{85}";

    fn white_space() -> impl Strategy<Value = String> {
        let one = proptest::sample::select(WHITE.chars().collect::<Vec<_>>());
        proptest::collection::vec(one, 0..20).prop_map(String::from_iter)
    }

    /// Often as long as is allowed, give or take one.
    fn inner() -> impl Strategy<Value = String> {
        let length = prop_oneof![3 => 0..20_usize, 1 => 4_998..5_003_usize];
        (length, any::<char>(), "\\PC{0,5}").prop_map(|(length, filling, end)| {
            let end: String = end.chars().take(length).collect();
            let mut text = filling.to_string().repeat(length - end.chars().count());
            text.push_str(&end);
            text
        })
    }

    proptest! {
        #[test]
        fn what_is_taken_is_kept_as_it_is(
            before in white_space(), inner in inner(), after in white_space(),
            id in proptest::option::of("\\PC{0,66}"),
        ) {
            let draft = Draft {
                message: format!("{before}{inner}{after}"),
                client_message_id: id.clone(),
            };
            let is_white = |c: char| WHITE.contains(c);
            let chars = inner.trim_matches(is_white).chars().count();
            let good_id = id.is_none_or(|id| (1..=64).contains(&id.chars().count()));
            match check(draft.clone()) {
                Ok(taken) => {
                    prop_assert_eq!(taken, draft);
                    prop_assert!((1..=5_000).contains(&chars) && good_id);
                }
                Err(failure) if failure.code == ErrorCode::EmptyMessage => prop_assert_eq!(chars, 0),
                Err(failure) => {
                    prop_assert_eq!(failure.code, ErrorCode::ValidationError);
                    prop_assert!(chars > 5_000 || !good_id);
                }
            }
        }
    }
}
