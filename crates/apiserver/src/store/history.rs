//! Reading what is no longer in memory, off the runtime's threads and a few at a time.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::database;
use super::log;
use super::types::{HistoryError, StorageFault};

/// How many read at once. After a restart thousands of watches may resume; they take turns.
const READERS: usize = 2;

/// Connections that read.
#[derive(Debug)]
pub(super) struct Readers {
    database: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(database: PathBuf) -> Arc<Self> {
        Arc::new(Self { database, idle: Mutex::default(), turns: Arc::new(Semaphore::new(READERS)) })
    }

    /// Closes the connections that nobody is using.
    pub(super) fn clear(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `query` on one consistent state of the log that goes back to `oldest`.
    pub(super) async fn read<T: Send + 'static>(
        self: Arc<Self>,
        oldest: u64,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let unavailable = |cause: &dyn std::fmt::Display| HistoryError::Unavailable(StorageFault::new(cause));
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|closed| unavailable(&closed))?;
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            self.read_now(oldest, query)
        });
        read.await.map_err(|failed| unavailable(&failed))?
    }

    fn read_now<T>(
        &self,
        oldest: u64,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, HistoryError> {
        let known = self.idle().pop();
        let connection = match known {
            Some(connection) => connection,
            None => database::open_reader(&self.database)
                .map_err(|error| HistoryError::Unavailable(StorageFault::new(error)))?,
        };
        let result = (|| {
            let transaction = connection.unchecked_transaction()?;
            let floor = log::floor(&transaction)?;
            if oldest < floor { Ok(Err(floor)) } else { query(&transaction).map(Ok) }
        })();
        match result {
            Ok(result) => {
                self.idle().push(connection);
                result.map_err(|oldest| HistoryError::Compacted { oldest })
            }
            // The connection goes, for whatever is wrong may be with it.
            Err(error) => Err(HistoryError::Unavailable(StorageFault::new(error))),
        }
    }
}
