//! Who watches: many streams that are followed on a thread of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use http_body_util::BodyExt;
use hyper::body::Bytes;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::failed;
use crate::cli::CliError;
use crate::workload::dense::account_id;

/// Followed streams; let go when it ends.
pub struct Watching {
    messages: Arc<AtomicU64>,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

async fn follow(
    address: SocketAddr,
    path: &str,
    messages: &AtomicU64,
    seen: &tokio::sync::mpsc::Sender<Result<(), CliError>>,
) -> Result<(), CliError> {
    let mut client = Client::connect(address).await?;
    let response = client.begin("GET", path, "text/event-stream", Bytes::new()).await?;
    if !response.status().is_success() {
        return Err(failed(format!("{path}: {}", response.status())));
    }
    let mut body = response.into_body();
    let mut told = false;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(failed)?;
        // The greeting and heartbeats are no messages.
        let is_message = |data: &Bytes| memchr::memmem::find(data, b"\ndata:").is_some();
        if !frame.data_ref().is_some_and(is_message) {
            continue;
        }
        messages.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut told, true) {
            // The bench may have given up already.
            let _ = seen.send(Ok(())).await;
        }
    }
    Ok(())
}

impl Watching {
    /// Follows the streams of so many accounts. Returns when each has had its first totals.
    pub async fn start(address: SocketAddr, watchers: usize, accounts: &Arc<[u64]>) -> Result<Self, CliError> {
        let (seen, mut first) = tokio::sync::mpsc::channel(watchers.max(1));
        let messages = Arc::new(AtomicU64::new(0));
        let end = CancellationToken::new();
        let (counted, told) = (Arc::clone(&messages), end.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let accounts = Arc::clone(accounts);
        let thread = std::thread::spawn(move || {
            for n in 0..watchers {
                let (seen, messages) = (seen.clone(), Arc::clone(&counted));
                let path = format!("/v1/accounts/{}/usage/stream", account_id(accounts[n % accounts.len()]));
                runtime.spawn(async move {
                    if let Err(cause) = follow(address, &path, &messages, &seen).await {
                        let _ = seen.send(Err(cause)).await;
                    }
                });
            }
            drop(seen);
            runtime.block_on(told.cancelled());
        });
        let watching = Self {
            messages,
            end,
            thread: Some(thread),
        };
        for _ in 0..watchers {
            first.recv().await.ok_or_else(|| failed("a stream ended at once"))??;
        }
        Ok(watching)
    }

    /// Messages with totals so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            // It only counts.
            let _ = thread.join();
        }
    }
}
