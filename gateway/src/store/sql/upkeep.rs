//! What commands ask of the store, never a request: see `archive`, `backup` and `inspect`.

use std::path::Path;

use async_trait::async_trait;

use super::SqlStore;
use crate::store::{
    ArchiveOrder, ArchiveOutcome, Inspection, Restored, StoreError, TableSize, Upkeep, UpkeepError,
};

#[async_trait]
impl Upkeep for SqlStore {
    async fn archive(&self, order: ArchiveOrder) -> Result<ArchiveOutcome, StoreError> {
        Ok(self.move_old(order).await?)
    }

    async fn backup(&self, to: &Path) -> Result<u64, UpkeepError> {
        self.back_up(to).await
    }

    async fn restore(&self, from: &Path, replace: bool) -> Result<Restored, UpkeepError> {
        self.put_back(from, replace).await
    }

    async fn inspect(&self) -> Result<Inspection, StoreError> {
        Ok(self.look().await?)
    }

    async fn optimize(&self) -> Result<Vec<TableSize>, StoreError> {
        Ok(self.compact().await?)
    }
}
