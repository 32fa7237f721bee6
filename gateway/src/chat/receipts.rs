//! Commands on what was read: mark it, count it.

use serde::Serialize;
use shared::command::MarkAsRead;
use shared::{Role, Seq, Timestamp};

use super::{Chat, policy};
use crate::failure::Failure;
use crate::store::{ReadMark, Viewer};

/// What a mark did.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadAnswer {
    /// The last message that is read now, of those that were meant.
    pub up_to_seq: Seq,
    /// How many messages turned read.
    pub count: i64,
}

/// How much the caller has not read.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnreadCount {
    /// In all conversations the caller sees.
    pub unread_count: i64,
    /// For an admin: in the conversations assigned to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mine: Option<i64>,
}

impl Chat {
    /// Marks the other side's messages as read.
    pub async fn mark_read(
        &self,
        reader: Viewer,
        mark: &MarkAsRead,
    ) -> Result<ReadAnswer, Failure> {
        self.visible(reader, mark.conversation_id).await?;
        let mark = ReadMark {
            conversation: mark.conversation_id,
            reader: reader.user,
            side: reader.role.side(),
            up_to: mark.up_to_seq,
            at: Timestamp::now(),
        };
        let outcome = self
            .store
            .mark_read(&mark)
            .await?
            .ok_or_else(policy::no_conversation)?;
        if let Some(logged) = &outcome.logged {
            self.publisher.publish_logged(logged).await;
        }
        Ok(ReadAnswer {
            up_to_seq: outcome.up_to,
            count: outcome.count,
        })
    }

    /// How much the viewer has not read.
    pub async fn unread(&self, viewer: Viewer) -> Result<UnreadCount, Failure> {
        let totals = self.store.unread(viewer).await?;
        let mine = (viewer.role == Role::Admin).then_some(totals.mine);
        Ok(UnreadCount {
            unread_count: totals.all,
            mine,
        })
    }
}
