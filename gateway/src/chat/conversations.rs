//! Commands on conversations: list, look, open, delete.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use shared::model::Conversation;
use shared::{ConversationId, ErrorCode, Timestamp, UserId};

use super::{Chat, policy};
use crate::failure::Failure;
use crate::store::{ConversationCursor, ConversationRecord, OpenOutcome, Viewer};

/// Which page of conversations.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// How many at the most.
    pub limit: u32,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
}

/// A page of conversations, latest activity first.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConversationPage {
    /// The page.
    pub conversations: Vec<Conversation>,
    /// What asks for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

impl Chat {
    /// A page of the conversations the viewer may see.
    pub async fn conversations(
        &self,
        viewer: Viewer,
        page: &PageRequest,
    ) -> Result<ConversationPage, Failure> {
        let after = page.cursor.as_deref().map(decode_cursor).transpose()?;
        // One more than asked for tells whether there is a next page.
        let mut records = self
            .store
            .conversations(viewer, after.as_ref(), page.limit + 1)
            .await?;
        let more = records.len() > page.limit as usize;
        records.truncate(page.limit as usize);
        let next_cursor = records
            .last()
            .filter(|_| more)
            .map(|last| encode_cursor(&last.cursor()));
        let conversations = records
            .iter()
            .map(|record| record.seen_by(viewer.role))
            .collect();
        Ok(ConversationPage {
            conversations,
            next_cursor,
        })
    }

    /// One conversation as the viewer is shown it.
    pub async fn conversation(
        &self,
        viewer: Viewer,
        id: ConversationId,
    ) -> Result<Conversation, Failure> {
        Ok(self.visible(viewer, id).await?.seen_by(viewer.role))
    }

    /// Opens a conversation with an agent, or finds the one there is; true where it is new.
    pub async fn open_conversation(
        &self,
        viewer: Viewer,
        agent: Option<UserId>,
    ) -> Result<(Conversation, bool), Failure> {
        policy::only_clients(viewer)?;
        match self
            .store
            .open_conversation(viewer.user, agent, Timestamp::now())
            .await?
        {
            OpenOutcome::Created(record, logged) => {
                self.publisher.publish_logged(&logged).await;
                Ok((record.seen_by(viewer.role), true))
            }
            OpenOutcome::Existing(record) => Ok((record.seen_by(viewer.role), false)),
            OpenOutcome::UnknownAgent => Err(Failure::new(
                ErrorCode::UserNotFound,
                "there is no such agent",
            )),
            OpenOutcome::NoAgent => Err(Failure::new(
                ErrorCode::NoAgent,
                "there is no agent to talk to yet",
            )),
            OpenOutcome::ClientInactive => Err(policy::client_inactive()),
        }
    }

    /// Deletes a conversation with its messages.
    pub async fn delete_conversation(
        &self,
        viewer: Viewer,
        id: ConversationId,
    ) -> Result<(), Failure> {
        policy::only_admins(viewer)?;
        let logged = self
            .store
            .delete_conversation(id, viewer.user, Timestamp::now())
            .await?
            .ok_or_else(policy::no_conversation)?;
        self.publisher.publish_logged(&logged).await;
        Ok(())
    }

    /// The conversation, where the viewer may see it.
    pub(super) async fn visible(
        &self,
        viewer: Viewer,
        id: ConversationId,
    ) -> Result<ConversationRecord, Failure> {
        let record = self
            .store
            .conversation(id)
            .await?
            .ok_or_else(policy::no_conversation)?;
        policy::may_view(viewer, record.parties())?;
        Ok(record)
    }
}

/// A cursor is opaque to clients: a page goes on after this activity and id.
fn encode_cursor(cursor: &ConversationCursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", cursor.activity.unix_millis(), cursor.id))
}

fn decode_cursor(cursor: &str) -> Result<ConversationCursor, Failure> {
    let parse = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (activity, id) = text.split_once('.')?;
        let activity = chrono::DateTime::from_timestamp_millis(activity.parse().ok()?)?;
        Some(ConversationCursor {
            activity: Timestamp(activity),
            id: id.parse().ok()?,
        })
    };
    parse()
        .ok_or_else(|| Failure::validation("cursor is not one of ours: take nextCursor as it is"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_cursors_are_refused() {
        for cursor in ["", "x", "!!!", "MTIz", "LjU"] {
            assert!(decode_cursor(cursor).is_err(), "{cursor}");
        }
        let cursor = decode_cursor(&URL_SAFE_NO_PAD.encode("1700000000123.7")).unwrap();
        assert_eq!(cursor.activity.unix_millis(), 1_700_000_000_123);
        assert_eq!(cursor.id, ConversationId::new(7));
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_as_it_was(
            millis in -62_167_219_200_000_i64..=253_402_300_799_999, id in 1..=i64::MAX,
        ) {
            let cursor = ConversationCursor {
                activity: Timestamp(chrono::DateTime::from_timestamp_millis(millis).unwrap()),
                id: ConversationId::new(id),
            };
            let read = decode_cursor(&encode_cursor(&cursor)).unwrap();
            prop_assert_eq!((read.activity, read.id), (cursor.activity, cursor.id));
        }

        /// Nothing panics, and what is taken for a cursor is one that could have been given.
        #[test]
        fn strange_cursors_are_refused_or_have_a_place(
            millis: i64, id: i64, inside in "[-+0-9.]{0,24}", outside in ".*",
        ) {
            let numbers = URL_SAFE_NO_PAD.encode(format!("{millis}.{id}"));
            for cursor in [numbers, URL_SAFE_NO_PAD.encode(inside), outside] {
                if let Ok(read) = decode_cursor(&cursor) {
                    prop_assert!(read.id.get() > 0);
                    let again = decode_cursor(&encode_cursor(&read)).unwrap();
                    prop_assert_eq!((again.activity, again.id), (read.activity, read.id));
                }
            }
        }
    }
}
