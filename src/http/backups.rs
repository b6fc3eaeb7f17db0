//! `POST /v1/backups`: a copy of everything, made while the fold, appends and reads go on.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body;
use super::caller::Caller;
use super::problem::{Code, Problem, ProblemBody};
use super::service::{Service, blocking};
use crate::partition::PartitionError;
use crate::partition::backup::{BackupError, Manifest, PartitionStanding};

/// Bytes of a request's body at most: a path.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// What is asked.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// An absolute path on the service's machine, to a folder that is empty or doesn't exist; below the service's
    /// `backup_root`, if it has one. Best on another disk: on the data's own, files are linked, not copied.
    #[schema(example = "/var/backups/reckon/2026-11-24")]
    pub to: String,
}

/// A complete backup.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackupBody {
    /// Where it is.
    pub to: String,
    /// When it was complete.
    pub made_at: String,
    /// The log's id.
    pub log_id: String,
    /// Where each store stands in it.
    pub partitions: Vec<PartitionStanding>,
    /// Files in it.
    pub files: u32,
    /// Their bytes.
    #[schema(example = "1048576")]
    pub bytes: String,
}

impl BackupBody {
    /// What is said of a manifest; the list of files stays in it.
    pub fn new(to: String, manifest: Manifest) -> Self {
        Self {
            to,
            files: manifest.files.len() as u32,
            bytes: manifest.bytes().to_string(),
            made_at: manifest.made_at,
            log_id: manifest.log_id,
            partitions: manifest.partitions,
        }
    }
}

impl From<BackupError> for Problem {
    fn from(cause: BackupError) -> Self {
        let text = cause.to_string();
        match cause {
            BackupError::NotAbsolute { .. } | BackupError::Misplaced { .. } => Self {
                field: Some("to".to_owned()),
                ..Self::new(Code::BadBody, text)
            },
            BackupError::NotEmpty { .. } => Self {
                field: Some("to".to_owned()),
                ..Self::new(Code::Conflict, text)
            },
            BackupError::Busy | BackupError::SharedLog => Self::new(Code::Conflict, text),
            BackupError::Read(cause) => cause.into(),
            BackupError::Partition(cause) if cause.is_disk_full() => Self::new(Code::DiskLow, text).retry_after(10),
            _ => Self::new(Code::Internal, text),
        }
    }
}

/// A place where no folder can be made is the operator's to mend, not the service's fault.
fn refused(cause: BackupError, to: &Path) -> Problem {
    let fault = match &cause {
        BackupError::File { path, cause } if path == to => Some(cause),
        BackupError::Partition(PartitionError::Folder { path, cause }) if path.starts_with(to) => Some(cause),
        _ => None,
    };
    let Some(fault) = fault.filter(|fault| cannot_be_made(fault.kind())) else {
        return cause.into();
    };
    let detail = format!("{} can't be made, or written to: {fault}", to.display());
    Problem {
        field: Some("to".to_owned()),
        ..Problem::new(Code::BadBody, detail)
    }
    .with_cure("name a folder that the service can make, or an empty one that it may write to")
}

fn cannot_be_made(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
    )
}

/// Back up
///
/// Everything that was acknowledged before is in it. The answer comes when it is complete, which takes as long as reading
/// all its files; it is completed also when nobody waits for the answer. One at a time.
#[utoipa::path(
    post,
    path = "/v1/backups",
    tag = "running",
    request_body = BackupRequest,
    responses(
        (status = 201, description = "It is complete", body = BackupBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("operator" = []))
)]
pub async fn backup(
    State(service): State<Arc<Service>>,
    caller: Caller,
    request: Request,
) -> Result<(axum::http::StatusCode, Json<BackupBody>), Problem> {
    // Nobody else's body is read.
    caller.may_operate()?;
    let request = body::in_time(&service.gate, request, REQUEST_BYTES_MAX).await?;
    let body = Json::<BackupRequest>::from_request(request, &()).await;
    let Json(BackupRequest { to }) = body.map_err(|cause| match cause {
        JsonRejection::MissingJsonContentType(_) => Problem::new(Code::UnsupportedType, cause.body_text()),
        _ => Problem::new(Code::BadBody, cause.body_text()),
    })?;
    let place = PathBuf::from(&to);
    let manifest = blocking(move || {
        let made = service.running.backup(&place, service.backup_root.as_deref());
        made.map_err(|cause| refused(cause, &place))
    });
    let manifest = manifest.await??;
    Ok((axum::http::StatusCode::CREATED, Json(BackupBody::new(to, manifest))))
}
