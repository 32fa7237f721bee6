//! `sync`: what a caller missed, from the same log that live events come from.

use std::collections::HashMap;

use shared::command::{Sync, SyncPosition};
use shared::event::{SyncAnswer, SyncedConversation, SyncedEvent};
use shared::{ConversationId, EventSeq};

use super::{Chat, events, policy};
use crate::failure::Failure;
use crate::store::{LogHead, Viewer};

/// The most conversations one call may name.
const MAX_CONVERSATIONS: usize = 200;

/// The most changes answered for one conversation, and how many without a wish.
const MAX_LIMIT: i64 = 500;
const DEFAULT_LIMIT: i64 = 100;

/// The most bytes of events in one answer, so that it fits a frame of 1,000,000 bytes with its frame of JSON. What does
/// not fit is said to follow by `hasMore`.
const MAX_ANSWER_BYTES: usize = 700_000;

/// How many log rows are read at a time.
const LOG_PAGE: u32 = 100;

impl Chat {
    /// What the caller missed; without positions, the heads of all its conversations.
    pub async fn sync(&self, viewer: Viewer, request: Sync) -> Result<SyncAnswer, Failure> {
        let limit = checked_limit(request.limit)?;
        let Some(positions) = request.conversations else {
            let heads = self.store.heads(viewer, None).await?;
            return Ok(SyncAnswer {
                conversations: heads.into_iter().map(head_alone).collect(),
            });
        };
        if positions.len() > MAX_CONVERSATIONS {
            return Err(Failure::validation(
                "conversations must name at most 200 conversations",
            ));
        }
        let heads = self.heads_of(viewer, &positions).await?;
        let mut room = MAX_ANSWER_BYTES;
        let mut conversations = Vec::with_capacity(positions.len());
        for position in &positions {
            let head = heads
                .get(&position.conversation_id)
                .copied()
                .ok_or_else(policy::no_conversation)?;
            conversations.push(
                self.sync_one(viewer, head, position.after_event_seq, limit, &mut room)
                    .await?,
            );
        }
        Ok(SyncAnswer { conversations })
    }

    /// The heads asked for, all of which exist or existed and may be seen.
    async fn heads_of(
        &self,
        viewer: Viewer,
        positions: &[SyncPosition],
    ) -> Result<HashMap<ConversationId, LogHead>, Failure> {
        let ids: Vec<_> = positions
            .iter()
            .map(|position| position.conversation_id)
            .collect();
        let heads = self.store.heads(viewer, Some(&ids)).await?;
        for head in &heads {
            policy::may_view(viewer, head.parties)?;
        }
        Ok(heads
            .into_iter()
            .map(|head| (head.conversation, head))
            .collect())
    }

    /// One conversation's changes after a place. Not every change is heard by every viewer, so rows are read until the
    /// page is full or the log has ended: a page without events is always the last.
    async fn sync_one(
        &self,
        viewer: Viewer,
        head: LogHead,
        mut after: EventSeq,
        limit: usize,
        room: &mut usize,
    ) -> Result<SyncedConversation, Failure> {
        let mut answer = head_alone(head);
        let mut changes = 0;
        while after < head.last_event_seq {
            let page = self
                .store
                .log_after(head.conversation, after, LOG_PAGE)
                .await?;
            let Some(last) = page.last() else { break };
            after = last.position.event_seq;
            for logged in &page {
                let heard = events::heard_by(logged, viewer)?;
                if heard.is_empty() {
                    continue;
                }
                let size: usize = heard.iter().map(size_of).sum();
                // The first of an answer goes in whatever its size, so every answer makes progress.
                let is_first = *room == MAX_ANSWER_BYTES;
                if changes == limit || (size > *room && !is_first) {
                    answer.has_more = true;
                    return Ok(answer);
                }
                *room = room.saturating_sub(size);
                changes += 1;
                answer.events.extend(heard);
            }
        }
        Ok(answer)
    }
}

/// Bytes of an event in the answer: its data, and about as much around it as its names take.
fn size_of(event: &SyncedEvent) -> usize {
    event.data.get().len() + event.event.len() + 64
}

fn head_alone(head: LogHead) -> SyncedConversation {
    SyncedConversation {
        conversation_id: head.conversation,
        last_seq: head.last_seq,
        last_event_seq: head.last_event_seq,
        events: Vec::new(),
        has_more: false,
        gone: head.gone,
    }
}

fn checked_limit(limit: Option<i64>) -> Result<usize, Failure> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Failure::validation("limit must be from 1 to 500"));
    }
    usize::try_from(limit).map_err(Failure::internal)
}
