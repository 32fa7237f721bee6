//! Who is writing just now: passing signs, not stored.

use std::time::Duration;

use shared::envelope::{Delivery, Lapse, LapseEnd};
use shared::event::{TypingStatus, name};
use shared::{ConversationId, Room, UserId};

use super::{Chat, raw, signs};
use crate::failure::Failure;
use crate::store::Viewer;

/// How long after the last sign somebody is taken to have stopped.
const TYPING_LASTS: Duration = Duration::from_secs(10);

impl Chat {
    /// Tells the others in a conversation that somebody writes, or stopped. `may_view` says that the caller has looked
    /// into the conversation before and need not be checked again.
    pub async fn typing(
        &self,
        who: Viewer,
        conversation: ConversationId,
        is_typing: bool,
        may_view: bool,
    ) -> Result<(), Failure> {
        if !may_view {
            self.visible(who, conversation).await?;
        }
        signs::publish(&*self.bus, sign(who.user, conversation, is_typing)?).await
    }
}

/// The sign, with its end: each node that shows it ends it by itself, so a node's death leaves nobody writing for ever.
fn sign(
    user_id: UserId,
    conversation_id: ConversationId,
    is_typing: bool,
) -> Result<Delivery, Failure> {
    let status = |is_typing| {
        raw(&TypingStatus {
            conversation_id,
            user_id,
            is_typing,
        })
    };
    let then = if is_typing {
        let after_ms = u64::try_from(TYPING_LASTS.as_millis()).unwrap_or(u64::MAX);
        Some(LapseEnd {
            after_ms,
            data: status(false)?,
        })
    } else {
        None
    };
    Ok(Delivery {
        event: name::TYPING_STATUS.to_owned(),
        rooms: vec![Room::Conversation(conversation_id)],
        data: status(is_typing)?,
        origin: None,
        except_user: Some(user_id),
        lapse: Some(Lapse {
            key: format!("typing:{conversation_id}:{user_id}"),
            then,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_ends_by_itself_and_its_end_does_not() {
        let sign = |is_typing| sign(UserId::new(1), ConversationId::new(2), is_typing).unwrap();
        let on = sign(true);
        assert_eq!(
            on.data.get(),
            r#"{"conversationId":2,"userId":1,"isTyping":true}"#
        );
        let lapse = on.lapse.unwrap();
        let end = lapse.then.unwrap();
        assert_eq!(
            (end.after_ms, end.data.get()),
            (
                10_000,
                r#"{"conversationId":2,"userId":1,"isTyping":false}"#
            )
        );
        let off = sign(false).lapse.unwrap();
        assert_eq!(off.key, lapse.key);
        assert!(off.then.is_none());
    }
}
