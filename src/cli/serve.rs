//! `reckon serve`: the service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{CliError, Data};
use crate::http::gatekeeper::Gatekeeper;
use crate::http::server::{self, Limits};
use crate::http::service::Service;
use crate::partition::Settings;
use crate::partition::running::Running;
use crate::store::rocks::Budget;

/// Serve: take events over HTTP, fold them, answer reads
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon serve --data ./reckon-data --listen 127.0.0.1:7070")]
pub struct Serve {
    #[command(flatten)]
    data: Data,

    /// Address to answer on; port 0 takes a free one and says which
    #[arg(long, default_value = "127.0.0.1:7070")]
    listen: SocketAddr,

    /// Let POST /v1/backups write below this folder only; else into any empty folder outside the data
    #[arg(long, value_name = "DIR")]
    backup_root: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), CliError> {
        let settings = Settings {
            commit_events: 50_000,
            commit_ms: 200,
            ..Settings::default()
        };
        let running = Running::start(&self.data.data, &Budget::default(), &settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let mut service = Service::new(Arc::clone(&running), Gatekeeper::default());
        service.backup_root = self.backup_root;
        let service = Arc::new(service);
        let result = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(self.listen).await?;
            println!("listening on http://{}", listener.local_addr()?);
            let closing = service.closing.clone();
            let told = closing.clone();
            let mut failed = running.failed();
            tokio::spawn(async move {
                let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
                let terminated = async {
                    match terminate.as_mut() {
                        Some(signal) => signal.recv().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminated => {}
                    _ = failed.wait_for(Option::is_some) => {}
                }
                told.cancel();
            });
            let router = crate::http::router(Arc::clone(&service));
            server::serve(listener, router, &Limits::default(), closing).await;
            Ok::<(), std::io::Error>(())
        });
        running.stop();
        result?;
        match running.failed().borrow().clone() {
            Some(cause) => Err(CliError::Finding(cause)),
            None => Ok(()),
        }
    }
}
