//! Browsers sign in: a form takes a token and gives a cookie for it, which scripts can't read, other sites don't send, and which is
//! good for reading alone.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::accept;
use super::body;
use super::caller::Scope;
use super::gatekeeper::{COOKIE, PLAIN_COOKIE};
use super::origin;
use super::params::Params;
use super::problem::{Code, Problem, ProblemBody};
use super::service::Service;
use super::token::{self, Claims};

/// Bytes of a form at most: a token and where to go.
const FORM_BYTES_MAX: usize = 16 << 10;

/// What stands for itself in a part of a path or a query (RFC 3986, unreserved).
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    to: &'a str,
    refused: Option<&'a str>,
}

impl SignInPage<'_> {
    fn answer(&self, status: StatusCode) -> Response {
        match self.render() {
            Ok(page) => (status, [(header::CACHE_CONTROL, "no-store")], Html(page)).into_response(),
            Err(cause) => Problem::new(Code::Internal, cause.to_string()).into_response(),
        }
    }
}

/// Where a page sends whoever isn't signed in, if the client would rather see a page than a problem.
pub fn address_for(parts: &Parts) -> Option<String> {
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    if !reads || !accept::wants_html(&parts.headers) {
        return None;
    }
    let to = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    Some(format!("/sign-in?to={}", utf8_percent_encode(to, KEPT)))
}

/// A place on this site, or nothing: whoever signs in isn't sent elsewhere.
fn local(to: &str) -> Option<&str> {
    let local = to.starts_with('/')
        && !to.starts_with("//")
        // Browsers read a backslash as a slash, and leave out tabs and line ends.
        && to.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    local.then_some(to)
}

/// Where a token leads if nothing else is asked for.
fn home(claims: &Claims) -> String {
    match &claims.scope {
        Scope::Account { account } => format!("/accounts/{}", utf8_percent_encode(account, KEPT)),
        Scope::Operator | Scope::Ingest { .. } | Scope::Metrics => "/docs/".to_owned(),
    }
}

/// What is asked.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SignInParams {
    /// Path of this site to go to afterwards.
    #[param(example = "/accounts/acme")]
    to: Option<String>,
}

/// The form
///
/// For people: takes a token, gives a cookie.
#[utoipa::path(
    get,
    path = "/sign-in",
    tag = "session",
    params(SignInParams),
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        (status = 303, description = "No token is asked for here"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(())
)]
pub async fn sign_in(State(service): State<Arc<Service>>, Params(params): Params<SignInParams>) -> Response {
    let to = params.to.as_deref().and_then(local).unwrap_or_default();
    if !service.gatekeeper.asks_for_tokens() {
        return see_other(if to.is_empty() { "/docs/" } else { to });
    }
    SignInPage { to, refused: None }.answer(StatusCode::OK)
}

/// What the form sends.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SessionForm {
    /// The token.
    token: String,
    /// Path of this site to go to.
    to: Option<String>,
}

/// What a browser says of where it is.
pub struct Browser {
    plain_local: bool,
}

impl FromRequestParts<Arc<Service>> for Browser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Service>) -> Result<Self, Problem> {
        if origin::is_cross_site(parts) {
            return Err(Problem::new(
                Code::Forbidden,
                "the request was sent by a page of another site; sign in and out by this site's own form",
            ));
        }
        Ok(Self {
            plain_local: origin::is_plain_local(parts),
        })
    }
}

impl Browser {
    fn set_cookie(&self, value: &str, max_age_s: u64) -> [(HeaderName, String); 1] {
        let (name, secure) = if self.plain_local {
            (PLAIN_COOKIE, "")
        } else {
            (COOKIE, "; Secure")
        };
        let cookie = format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}");
        [(header::SET_COOKIE, cookie)]
    }
}

/// On to that place of this site.
pub(super) fn see_other(to: &str) -> Response {
    let headers = [(header::LOCATION, to), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// Sign in
///
/// Takes the form's token and gives a cookie for it: HttpOnly, SameSite=Strict, until the token ends.
#[utoipa::path(
    post,
    path = "/session",
    tag = "session",
    request_body(content = SessionForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "Signed in: on to `to`"),
        (status = 401, description = "The token doesn't hold: the form again", body = String, content_type = "text/html"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(())
)]
pub async fn begin(
    State(service): State<Arc<Service>>,
    browser: Browser,
    request: Request,
) -> Result<Response, Problem> {
    let request = body::in_time(&service.gate, request, FORM_BYTES_MAX).await?;
    let form = Form::<SessionForm>::from_request(request, &()).await;
    let Form(form) = form.map_err(form_problem)?;
    let asked = form.to.as_deref().unwrap_or_default();
    let to = match local(asked) {
        None if !asked.is_empty() => {
            return Err(Problem::parameter(
                "to",
                format!("{asked:?} is not a path of this site"),
            ));
        }
        to => to,
    };
    let again = |refused: &str| {
        let page = SignInPage {
            to: to.unwrap_or_default(),
            refused: Some(refused),
        };
        Ok(page.answer(StatusCode::UNAUTHORIZED))
    };
    let token = form.token.trim();
    let claims = match service.gatekeeper.verify(token) {
        Ok(claims) if matches!(claims.scope, Scope::Ingest { .. }) => {
            return again("an ingest token reads nothing; take an account or an operator token");
        }
        Ok(claims) if claims.scope == Scope::Metrics => {
            return again("a metrics token is for programs; take an account or an operator token");
        }
        Ok(claims) => claims,
        Err(cause) => return again(&cause.to_string()),
    };
    tracing::info!(name = claims.sub, token_id = claims.jti, "a browser has signed in");
    let left_s = claims.exp.saturating_sub(token::now_s());
    let onward = see_other(&to.map_or_else(|| home(&claims), str::to_owned));
    Ok((browser.set_cookie(token, left_s), onward).into_response())
}

/// Sign out
///
/// Takes the cookie away.
#[utoipa::path(
    post,
    path = "/session/end",
    tag = "session",
    responses(
        (status = 303, description = "Signed out: back to the form"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(())
)]
pub async fn end(browser: Browser) -> Response {
    (browser.set_cookie("", 0), see_other("/sign-in")).into_response()
}

fn form_problem(cause: FormRejection) -> Problem {
    let code = match cause.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedType,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        _ => Code::BadBody,
    };
    Problem::new(code, cause.body_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        for to in ["/", "/accounts/acme", "/accounts/a%2Fb?period=2026-09&x=1"] {
            assert_eq!(local(to), Some(to));
        }
        for to in [
            "",
            "accounts",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example",
            "/\t/evil.example",
            "/a\r\nset-cookie: x",
            "javascript:alert(1)",
            " /accounts",
        ] {
            assert_eq!(local(to), None, "{to:?}");
        }
    }
}
