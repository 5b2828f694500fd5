//! Every store keeps the contract, and what it says of itself.

mod broken;
mod encrypted;
mod file;
mod file_places;
mod file_races;
mod keyring;
mod memory;
mod redis;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use apivideo_auth::{
    Error, ErrorKind,
    store::{
        EncryptedStore, EncryptionKey, FileStore, Header, MemoryStore, Record, StoreKey, StoreLock,
        Stored, TokenStore, TryLock, Version, contract_suite,
    },
};
use tokio::time::Instant;

#[tokio::test]
async fn g21_the_memory_store_keeps_the_contract() {
    let store = MemoryStore::new();
    contract_suite(|| store.clone()).await;
    let store = MemoryStore::new();
    contract_suite(|| encrypted(store.clone())).await;
}

#[tokio::test]
async fn g21_the_file_store_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    contract_suite(|| FileStore::in_folder(folder.path().join("tokens"))).await;
    contract_suite(|| encrypted(FileStore::in_folder(folder.path().join("encrypted")))).await;
}

fn encrypted<S: TokenStore>(store: S) -> EncryptedStore<S> {
    EncryptedStore::new(store, EncryptionKey::from_bytes([7; 32]))
}

fn key() -> StoreKey {
    StoreKey::new("https://ws.example", "main").expect("a good key")
}

fn version(family: u64, revision: u64) -> Version {
    Version { family, revision }
}

fn stored(version: Version, record: &[u8]) -> Stored {
    let mut header = Header::new(version);
    header.expires_in = Some(Duration::from_secs(100));
    Stored::new(header, Some(Record::new(record.to_vec())))
}

async fn locked(store: &impl TokenStore) -> Box<dyn StoreLock> {
    match store.try_lock(&key()).await.expect("asking for the lock") {
        TryLock::Locked(lock) => lock,
        busy => panic!("the lock is free, yet {busy:?}"),
    }
}

/// Saves over whatever is stored.
async fn save(store: &impl TokenStore, stored: Stored) {
    let found = store
        .load(&key())
        .await
        .expect("loading")
        .map(|stored| stored.header.version);
    let mut lock = locked(store).await;
    lock.save(found, stored).await.expect("saving");
    lock.unlock().await;
}

async fn record(store: &impl TokenStore) -> Vec<u8> {
    let stored = store
        .load(&key())
        .await
        .expect("loading")
        .expect("a stored pair");
    stored.record.expect("a record").expose().to_vec()
}

async fn refused(store: &impl TokenStore) -> Error {
    store.load(&key()).await.expect_err("it is not to be read")
}

fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Waits for `work`, and says how long the longest single step of it held up the runtime.
async fn longest_step<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let mut work = pin!(work);
    let mut longest = Duration::ZERO;
    let result = poll_fn(|context| {
        let begun = Instant::now();
        let result = work.as_mut().poll(context);
        longest = longest.max(begun.elapsed());
        result
    })
    .await;
    (result, longest)
}
