//! `Messages`: pages of what was said. How messages get in stands in `append`.

use async_trait::async_trait;
use shared::ConversationId;
use shared::model::Message;

use super::SqlStore;
use super::fault::Fault;
use super::query::{Query, Row};
use super::replica::Source;
use super::rows::{self, MESSAGE};
use crate::store::{
    Admission, AppendOutcome, MessagePage, Messages, NewMessage, PagePosition, StoreError,
};

#[async_trait]
impl Messages for SqlStore {
    async fn append(
        &self,
        batch: &[NewMessage],
        admit: &Admission,
    ) -> Result<AppendOutcome, StoreError> {
        Ok(self.append_batch(batch, admit).await?)
    }

    async fn messages(
        &self,
        conversation: ConversationId,
        page: MessagePage,
    ) -> Result<Vec<Message>, StoreError> {
        if let Some(as_of) = page.as_of
            && let Some(mut replica) = self.replica_with(conversation, as_of).await
            && let Ok(messages) = read_page(&mut replica, conversation, page).await
        {
            return Ok(messages);
        }
        Ok(read_page(&mut Source::Primary(self), conversation, page).await?)
    }
}

/// A page, from the archive where it reaches there: numbers have no gaps, so what a page lacks shows.
///
/// The table is always read first. Messages move from there into the archive, so what is not in the table any more is in
/// the archive by then.
async fn read_page(
    source: &mut Source<'_>,
    conversation: ConversationId,
    page: MessagePage,
) -> Result<Vec<Message>, Fault> {
    let recent = source
        .all(page_query("Messages", conversation, page))
        .await?;
    let recent = in_order(&recent, page.position)?;
    let first = recent.first().map(|message| message.seq);
    let limit = page.limit as usize;
    let wanted = match (page.position, first) {
        // The newest message is never archived.
        (PagePosition::Latest, None) => None,
        (PagePosition::Latest | PagePosition::Before(_), Some(first)) => {
            let lacks = recent.len() < limit && first.get() > 1;
            lacks.then_some(PagePosition::Before(first))
        }
        (PagePosition::Before(before), None) => {
            (before.get() > 1).then_some(PagePosition::Before(before))
        }
        (PagePosition::After(after), Some(first)) if first <= after.next() => None,
        (PagePosition::After(after), _) => Some(PagePosition::After(after)),
    };
    let Some(position) = wanted else {
        return Ok(recent);
    };
    let rest = match position {
        PagePosition::After(_) => limit,
        _ => limit - recent.len(),
    };
    let page = MessagePage {
        position,
        limit: u32::try_from(rest).unwrap_or(page.limit),
        as_of: page.as_of,
    };
    let old = source
        .all(page_query("ArchivedMessages", conversation, page))
        .await?;
    let mut messages = in_order(&old, position)?;
    // What was moved between the two questions is in both answers.
    if let Some(first) = first {
        messages.retain(|message| message.seq < first);
    }
    messages.extend(recent);
    messages.truncate(limit);
    Ok(messages)
}

fn page_query(table: &str, conversation: ConversationId, page: MessagePage) -> Query {
    let select = format!("SELECT {MESSAGE} FROM {table} m WHERE m.conversationId = ?");
    match page.position {
        // Messages without a number are the old system's newest: the next `migrate` takes them in.
        PagePosition::Latest => Query::new(format!(
            "{select} AND m.seq IS NOT NULL ORDER BY m.seq DESC LIMIT ?"
        ))
        .bind(conversation),
        PagePosition::Before(seq) => Query::new(format!(
            "{select} AND m.seq < ? ORDER BY m.seq DESC LIMIT ?"
        ))
        .bind(conversation)
        .bind(seq),
        PagePosition::After(seq) => {
            Query::new(format!("{select} AND m.seq > ? ORDER BY m.seq LIMIT ?"))
                .bind(conversation)
                .bind(seq)
        }
    }
    .bind(page.limit)
}

fn in_order(found: &[Row], position: PagePosition) -> Result<Vec<Message>, Fault> {
    let mut messages = found
        .iter()
        .map(|row| rows::message(&mut row.cells()))
        .collect::<Result<Vec<_>, _>>()?;
    if !matches!(position, PagePosition::After(_)) {
        messages.reverse();
    }
    Ok(messages)
}
