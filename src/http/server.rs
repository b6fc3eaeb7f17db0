//! Sockets: how many, how long they may take to say what they want, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::socket::Socket;

/// Limits of the sockets.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more wait to be accepted.
    pub connections: usize,
    /// A request's head must arrive within it, on an idle connection too.
    pub head_timeout: Duration,
    /// A client that reads nothing of its answer for so long is cut off.
    pub write_timeout: Duration,
    /// After being told to end, requests that are under way get so long.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8_192,
            head_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Raises the process's limit of open files as far as it may be: every connection is one, and every table of log and stores.
pub fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => tracing::debug!(files, "limit of open files"),
        Err(cause) => tracing::warn!(%cause, "the limit of open files stays as it is"),
    }
}

/// Answers on the listener until `closing`; then lets requests that are under way come to their end.
pub async fn serve(listener: TcpListener, router: Router, limits: &Limits, closing: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(limits.connections));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .half_close(true);
    loop {
        let room = tokio::select! {
            room = Arc::clone(&free).acquire_owned() => room,
            () = closing.cancelled() => break,
        };
        let Ok(room) = room else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        let (socket, peer): (_, SocketAddr) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                // Out of file handles, or the client has left already: neither is a reason to end.
                tracing::warn!(%cause, "no connection could be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Answers are short and whole: waiting to fill a packet only delays them.
        let _ = socket.set_nodelay(true);
        let service = router
            .clone()
            .map_request(move |mut request: axum::http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                request.map(axum::body::Body::new)
            });
        let socket = TokioIo::new(Socket::new(socket, limits.write_timeout));
        let connection = builder.serve_connection(socket, TowerToHyperService::new(service));
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, "connection ended");
            }
            drop(room);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain_timeout, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests were still under way when the service ended");
    }
}
