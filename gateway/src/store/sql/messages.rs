//! `Messages`: pages of what was said. How messages get in stands in `append`.

use async_trait::async_trait;
use shared::ConversationId;
use shared::model::Message;

use super::SqlStore;
use super::fault::Fault;
use super::query::{Query, Row};
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
        let query = || page_query(conversation, page);
        if let Some(as_of) = page.as_of
            && let Some(mut replica) = self.replica_with(conversation, as_of).await
            && let Ok(found) = replica.all(query()).await
        {
            return Ok(in_order(&found, page.position)?);
        }
        Ok(in_order(&self.db.all(query()).await?, page.position)?)
    }
}

fn page_query(conversation: ConversationId, page: MessagePage) -> Query {
    let select = format!("SELECT {MESSAGE} FROM Messages m WHERE m.conversationId = ?");
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
