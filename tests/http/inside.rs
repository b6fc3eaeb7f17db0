//! The service in this process, for limits of its own; on a real socket, with the real log and store.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use reckon::http::gate::IngestLimits;
use reckon::http::gatekeeper::Gatekeeper;
use reckon::http::server::{self, Limits};
use reckon::http::service::Service;
use reckon::http::token_keys::KeyFolder;
use reckon::partition::Settings;
use reckon::partition::running::Running;
use reckon::store::rocks::Budget;

pub struct Inside {
    runtime: Option<tokio::runtime::Runtime>,
    service: Arc<Service>,
    pub base: String,
}

impl Inside {
    pub fn start(data: &Path, limits: IngestLimits) -> Self {
        let running = Running::start(data, &Budget::default(), &Settings::default()).expect("it runs");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let keys = KeyFolder::of_data(data);
        let gatekeeper = Gatekeeper::open(keys, &running.log.identity().log_id, any).expect("no key is asked for");
        let service = Arc::new(Service::new(running, gatekeeper).with_ingest_limits(limits));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(any)).expect("bound");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let (router, closing) = (reckon::http::router(Arc::clone(&service)), service.closing.clone());
        runtime.spawn(async move { server::serve(listener, router, &Limits::default(), closing).await });
        Self {
            runtime: Some(runtime),
            service,
            base,
        }
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.service.closing.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(10));
        }
        self.service.running.stop();
    }
}
