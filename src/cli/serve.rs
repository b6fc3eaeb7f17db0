//! `reckon serve`: the service, from its settings to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::config::Given;
use super::terminal::say;
use super::{CliError, logging};
use crate::config::{Config, SHUTDOWN_MS};
use crate::http::gatekeeper::Gatekeeper;
use crate::http::service::Service;
use crate::http::{metrics, process, server};
use crate::log::kafka::{KafkaLog, KafkaSettings};
use crate::partition::instance::Instance;
use crate::partition::running::Running;

/// How often what histograms were given is sorted into their buckets.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// How long reads that nobody waits for any more may go on at the end.
const READS_END: Duration = Duration::from_secs(1);

/// Serve: take events over HTTP, fold them, answer reads
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  reckon serve --data ./reckon-data --listen 127.0.0.1:7070\n  reckon serve --data ./reckon-data --kafka localhost:9092\n\nSIGTERM and SIGINT end it: \
    /readyz says 503, connections are refused, requests under way come to their end, everything is committed and put on \
    disk, in under 10 s. A second signal ends it at once; nothing acknowledged is lost. The exit code is 0, or 1 if it \
    couldn't go on, or 2 if the settings don't hold."
)]
pub struct Serve {
    #[command(flatten)]
    given: Given,
}

/// The signals that end the process.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

impl Serve {
    pub(super) fn run(self) -> Result<(), CliError> {
        process::started();
        let config = self.given.load()?.config;
        logging::of_service(&config.telemetry)?;
        metrics::install();
        server::raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(serve(&config));
        // Reads whose clients have left may still wait for the disk; they hold the stores, which are closed with the last one.
        runtime.shutdown_timeout(READS_END);
        result
    }
}

async fn serve(config: &Config) -> Result<(), CliError> {
    // Before anything else: as process 1 of a container no signal would end us otherwise.
    let mut ends = Ends::listen()?;
    let (data, budget, settings) = (config.data.path.clone(), config.budget(), config.settings());
    let began = Instant::now();
    let kafka = config
        .kafka
        .settings()
        .map_err(|cause| CliError::Usage(cause.to_string()))?;
    // What other instances are told must be known before the group is joined.
    let listener = match &kafka {
        Some(_) => Some(listen(config).await?),
        None => None,
    };
    let address = listener.as_ref().and_then(|l| l.local_addr().ok());
    let opening = tokio::task::spawn_blocking(move || -> Result<_, CliError> {
        match kafka {
            None => Ok((Running::start(&data, &budget, &settings)?, None)),
            Some(kafka) => {
                let instance = Instance::take(&data, kafka.instance.as_deref())?;
                let kafka = KafkaSettings {
                    instance: Some(instance.name.clone()),
                    advertise: Some(advertised(kafka.advertise, address)?),
                    ..kafka
                };
                let log = Arc::new(KafkaLog::open(&kafka)?);
                Ok((Running::share(log, &data, &budget, &settings)?, Some(instance)))
            }
        }
    });
    // The data folder is ours until the end.
    let (running, _instance) = tokio::select! {
        opened = opening => match opened {
            Ok(opened) => opened?,
            Err(cause) => return Err(CliError::Finding(format!("the data folder couldn't be opened: {cause}"))),
        },
        name = ends.next() => {
            tracing::info!(signal = name, "ended while the stores were being opened");
            // What is being opened can't be waited for, and nothing is written by it.
            leave_at_once(0);
        }
    };
    match answer(config, &running, listener, ends, began).await {
        Ok(ending) => {
            close(Arc::clone(&running)).await;
            ending.abort();
        }
        // Nobody is there yet who would end what takes too long.
        Err(cause) => {
            let closed = tokio::time::timeout(Duration::from_millis(SHUTDOWN_MS), close(Arc::clone(&running)));
            if closed.await.is_err() {
                tracing::error!(%cause, "ended before everything was on disk; it is folded again next time");
                leave_at_once(1);
            }
            return Err(cause);
        }
    }
    let failed = running.failed().borrow().clone();
    match failed {
        Some(cause) => Err(CliError::Finding(cause)),
        None => {
            tracing::info!("ended: everything is committed and on disk");
            Ok(())
        }
    }
}

async fn listen(config: &Config) -> Result<TcpListener, CliError> {
    TcpListener::bind(config.listen.address).await.map_err(|cause| {
        let cure = "choose another address with --listen, or see who has it with `ss -ltnp`";
        CliError::Finding(format!("{}: {cause}; {cure}", config.listen.address))
    })
}

/// Where other instances reach this one.
fn advertised(given: Option<String>, address: Option<SocketAddr>) -> Result<String, CliError> {
    match (given, address) {
        (Some(url), _) if url.starts_with("http://") && !url.contains(';') => Ok(url.trim_end_matches('/').to_owned()),
        (Some(url), _) => Err(CliError::Usage(format!("--advertise {url}: give it as http://HOST:PORT"))),
        (None, Some(address)) if !address.ip().is_unspecified() => Ok(format!("http://{address}")),
        _ => Err(CliError::Usage(
            "other instances can't be told to ask at an address like 0.0.0.0: say by --advertise http://HOST:PORT where they \
             reach this one"
                .to_owned(),
        )),
    }
}

/// Answers requests until told to end. What it returns ends the process if closing takes too long.
async fn answer(
    config: &Config,
    running: &Arc<Running>,
    listener: Option<TcpListener>,
    ends: Ends,
    began: Instant,
) -> Result<JoinHandle<()>, CliError> {
    let log_id = &running.log.identity().log_id;
    let gatekeeper = Gatekeeper::open(config.key_folder(), log_id, config.listen.address)?;
    let listener = match listener {
        Some(listener) => listener,
        None => listen(config).await?,
    };
    // Whoever reads what it prints may have left: it serves all the same, and its log has both lines too.
    gatekeeper.notice().iter().for_each(|notice| drop(say!("{notice}")));
    let mut service = Service::new(Arc::clone(running), gatekeeper).with_ingest_limits(config.ingest.limits());
    service.readiness = config.readiness();
    service.backup_root = config.backup.root();
    let service = Arc::new(service);
    let address = listener.local_addr()?;
    drop(say!("listening on http://{address}"));
    tracing::info!(
        %address,
        log_id,
        partitions = running.partitions.len(),
        open_ms = began.elapsed().as_millis() as u64,
        "serving"
    );
    let unready = Duration::from_millis(config.listen.unready_ms);
    let ending = tokio::spawn(end(Arc::clone(&service), ends, unready));
    let tidying = tokio::spawn(async {
        let mut due = tokio::time::interval(TIDY_EVERY);
        loop {
            due.tick().await;
            metrics::tidy();
        }
    });
    let keeping_up = tokio::spawn(Gatekeeper::keep_up(Arc::clone(&service)));
    let router = crate::http::router(Arc::clone(&service));
    server::serve(listener, router, &config.listen.limits(), service.closing.clone()).await;
    tidying.abort();
    keeping_up.abort();
    Ok(ending)
}

/// Waits for a reason to end, then ends: first no longer ready, then closing. Another signal, or too long a time, ends the
/// process at once: whatever was acknowledged is in the log.
async fn end(service: Arc<Service>, mut ends: Ends, unready: Duration) {
    let mut failed = service.running.failed();
    tokio::select! {
        name = ends.next() => tracing::info!(signal = name, "ending"),
        _ = failed.wait_for(Option::is_some) => tracing::error!("ending: a partition has stopped for good"),
    }
    service.leave();
    let hurry = async {
        tokio::select! {
            name = ends.next() => tracing::warn!(signal = name, "ended at once; what isn't on disk is folded again"),
            () = tokio::time::sleep(Duration::from_millis(SHUTDOWN_MS)) => {
                tracing::warn!("ended before everything was on disk: it took too long; it is folded again next time");
            }
        }
    };
    let orderly = async {
        tokio::time::sleep(unready).await;
        service.closing.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = hurry => {}
        () = orderly => {}
    }
    leave_at_once(service.running.failed().borrow().is_some().into());
}

/// Ends the process under its threads: without what C++ does at an orderly exit, which would take RocksDB's locks away from
/// those that still hold them.
fn leave_at_once(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}

/// Commits, delivers, puts on disk, closes: on a thread that may wait.
async fn close(running: Arc<Running>) {
    if tokio::task::spawn_blocking(move || running.stop()).await.is_err() {
        tracing::error!("closing has panicked");
    }
}
