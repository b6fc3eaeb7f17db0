//! Who posts: some connections, each of which sends the next body when the last is acknowledged, or at its turn.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::bodies::Bodies;
use super::failed;
use crate::cli::CliError;
use crate::cli::bench::times::Times;

/// One connection that is kept.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Result<Self, CliError> {
        let socket = tokio::net::TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    pub async fn begin(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<hyper::Response<hyper::body::Incoming>, CliError> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", content_type)
            .body(Full::new(body))
            .map_err(failed)?;
        self.sender.ready().await.map_err(failed)?;
        self.sender.send_request(request).await.map_err(failed)
    }

    async fn ask(&mut self, method: &str, path: &str, content_type: &str, body: Bytes) -> Result<Bytes, CliError> {
        let response = self.begin(method, path, content_type, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            // A refused batch says so a thousand times.
            let text: String = String::from_utf8_lossy(&body).chars().take(400).collect();
            Err(failed(format!("{method} {path}: {status}: {text}")))
        }
    }

    /// Records in the log that aren't folded.
    async fn lag(&mut self) -> Result<u64, CliError> {
        let response = self.begin("GET", "/readyz", "application/json", Bytes::new()).await?;
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        let ready: Value = serde_json::from_slice(&body)?;
        let lags = ready["partitions"].as_array().into_iter().flatten();
        Ok(lags
            .filter_map(|p| p["lag_records"].as_str()?.parse::<u64>().ok())
            .sum())
    }

    /// Waits until everything is folded.
    pub async fn folded(&mut self) -> Result<(), CliError> {
        while self.lag().await? > 0 {
            // No event tells a client of it.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// What posting came to.
pub struct Posted {
    pub events: u64,
    /// Until the last acknowledgement, and until all was folded.
    pub acknowledged: Duration,
    pub folded: Duration,
    pub acks: Times,
}

impl Posted {
    pub fn acknowledged_per_s(&self) -> u64 {
        self.per_s(self.acknowledged)
    }

    pub fn folded_per_s(&self) -> u64 {
        self.per_s(self.folded)
    }

    fn per_s(&self, time: Duration) -> u64 {
        (u128::from(self.events) * 1_000_000 / time.as_micros().max(1)) as u64
    }
}

/// Posts bodies for so long over several connections. With a pace there is one body each so long, over all connections.
pub async fn post(
    address: SocketAddr,
    bodies: &Arc<Bodies>,
    connections: usize,
    length: Duration,
    pace: Option<Duration>,
) -> Result<Posted, CliError> {
    let turn = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (bodies, turn) = (Arc::clone(bodies), Arc::clone(&turn));
        tasks.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await?;
            let (mut acks, mut events) = (Times::default(), 0);
            while began.elapsed() < length {
                if let Some(pace) = pace {
                    let turn = turn.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep_until((began + pace * turn as u32).into()).await;
                }
                let (body, count) = bodies.next();
                let sent = Instant::now();
                client
                    .ask("POST", "/v1/events", bodies.format.content_type(), body)
                    .await?;
                acks.push(sent.elapsed());
                events += count;
            }
            Ok::<_, CliError>((acks, events))
        }));
    }
    let (mut acks, mut events) = (Times::default(), 0);
    for task in tasks {
        let (some, count) = task.await.map_err(failed)??;
        acks.extend(some);
        events += count;
    }
    let acknowledged = began.elapsed();
    Client::connect(address).await?.folded().await?;
    Ok(Posted {
        events,
        acknowledged,
        folded: began.elapsed(),
        acks,
    })
}
