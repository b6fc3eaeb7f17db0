//! The service over HTTP: events in, live totals and outputs out.
//!
//! | file | what it answers |
//! |---|---|
//! | [`usage`], [`calls`], [`statements`], [`periods`], [`months`] | reads: JSON and CSV, each with the place in the log where it stands |
//! | [`stream`], [`watchers`] | live totals as server-sent events, computed once for all who watch |
//! | [`page`] | the billing page: for people |
//! | [`ingest`], [`unzip`], [`intake`], [`framing`], [`body`] | events: a body as it arrives, unpacked, cut into events, judged, appended |
//! | [`event_schema`] | what the contract says of an event's body |
//! | [`records`] | an operator's log records: histories, control |
//! | [`gate`], [`sources`] | back-pressure; how each producer fares |
//! | [`outputs`], [`rows`] | what was put out, for consumers without Kafka |
//! | [`hop`], [`peers`] | on Kafka: a read of what another instance owns, asked there |
//! | [`backups`] | a copy of everything while it runs |
//! | [`gatekeeper`], [`caller`] | who asks, and what that one may do |
//! | [`health`], [`metrics`], [`process`] | how it stands: for supervisors, balancers, Prometheus |
//! | [`requests`] | around every request: id, log line, counts |
//! | [`token`], [`token_keys`] | what a token says, and the keys that sign and check it |
//! | [`sign_in`] | a browser's cookie for its token |
//! | [`origin`], [`security_headers`] | what other sites may make a browser do here: nothing |
//! | [`problem`] | every refusal, with its code, field and cure |
//! | [`server`], [`socket`] | sockets: limits, time-outs, the end |
//! | [`accept`] | in which form a client wants its answer |
//!
//! Handlers hold no rule: they parse, ask [`crate::partition`], and put the answer into words. Whatever must be finished once
//! begun runs in a task of its own, for a handler ends when its client leaves.

pub mod accept;
pub mod answer;
pub mod backups;
pub mod body;
pub mod caller;
pub mod calls;
pub mod event_schema;
pub mod framing;
pub mod gate;
pub mod gatekeeper;
pub mod health;
pub mod hop;
pub mod ingest;
pub mod intake;
pub mod metrics;
pub mod months;
pub mod origin;
pub mod outputs;
pub mod page;
pub mod params;
pub mod peers;
pub mod periods;
pub mod problem;
pub mod process;
pub mod records;
pub mod requests;
pub mod rows;
pub mod security_headers;
pub mod server;
pub mod service;
pub mod sign_in;
pub mod socket;
pub mod sources;
pub mod statements;
pub mod stream;
pub mod token;
pub mod token_keys;
pub mod unzip;
pub mod usage;
pub mod watchers;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use problem::{Code, Problem};
use service::Service;

/// The contract's frame; paths and schemas come from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Reckon",
        description = "Turns the request-lifecycle events of API gateways into what each account owes. In what is read, \
            quantities, amounts, counts and offsets are decimal strings; partitions, revisions and the counts of one \
            request's results are numbers. Times are UTC in RFC 3339. Errors are problems of RFC 9457 with stable codes."
    ),
    tags(
        (name = "events", description = "What gateways send"),
        (name = "reads", description = "Live totals, verdicts and statements"),
        (name = "outputs", description = "What was put out, in order"),
        (name = "running", description = "How the service stands"),
        (name = "session", description = "Browsers sign in and out"),
    )
)]
struct Contract;

/// Every route but the documents, and their description.
pub fn routes() -> (Router<Arc<Service>>, utoipa::openapi::OpenApi) {
    let (router, mut api) = OpenApiRouter::with_openapi(Contract::openapi())
        .routes(routes!(ingest::events).layer(axum::middleware::from_fn(unzip::unzip)))
        .routes(routes!(records::records).layer(axum::middleware::from_fn(unzip::unzip)))
        .routes(routes!(usage::usage))
        .routes(routes!(stream::usage_stream))
        .routes(routes!(calls::call))
        .routes(routes!(statements::statements))
        .routes(routes!(statements::statement))
        .routes(routes!(periods::period))
        .routes(routes!(outputs::outputs))
        .routes(routes!(backups::backup))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::scrape))
        .merge(session_routes())
        .split_for_parts();
    let components = api.components.get_or_insert_default();
    for scope in ["ingest", "account", "metrics", "operator"] {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(format!(
                "A token with the scope {scope}: `reckon token issue {scope} …`"
            )))
            .build();
        components.add_security_scheme(scope, SecurityScheme::Http(bearer));
    }
    to_sign_in(&mut api);
    (router, api)
}

/// Every read that asks for a token sends a browser without one to where it signs in ([`caller::TurnedAway`]).
fn to_sign_in(api: &mut utoipa::openapi::OpenApi) {
    for path in api.paths.paths.values_mut() {
        let reads = path.get.iter_mut();
        let nothing = SecurityRequirement::default();
        let asks = |needs: &Vec<SecurityRequirement>| needs.iter().any(|one| *one != nothing);
        for read in reads.filter(|read| read.security.as_ref().is_some_and(asks)) {
            let onward = ResponseBuilder::new().description("A browser without a token that holds: on to /sign-in");
            let status = StatusCode::SEE_OTHER.as_str().to_owned();
            read.responses
                .responses
                .entry(status)
                .or_insert_with(|| onward.build().into());
        }
    }
}

fn session_routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(sign_in::sign_in))
        .routes(routes!(sign_in::begin))
        .routes(routes!(sign_in::end))
}

/// The whole service.
pub fn router(service: Arc<Service>) -> Router {
    let (router, api) = routes();
    router
        .merge(page::routes())
        .merge(periods::routes())
        .route_layer(axum::middleware::from_fn_with_state(Arc::clone(&service), hop::pass_on))
        .with_state(service)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", api))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::map_response(security_headers::put))
        .layer(axum::middleware::from_fn(requests::observe))
}

async fn no_route(uri: axum::http::Uri) -> Problem {
    Problem::new(Code::NoRoute, format!("there is no {}", uri.path()))
}

async fn no_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{} doesn't take {method}", uri.path()))
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let what = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(what, "a handler has panicked");
    Problem::new(Code::Internal, "a handler has panicked").into_response()
}
