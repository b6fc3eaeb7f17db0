//! A folder for what is measured.

use std::path::{Path, PathBuf};

use crate::cli::CliError;

/// A folder of its own under the system's temporary folder, removed when it is let go.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one; the name tells it from others of this process.
    pub fn make(name: &str) -> Result<Self, CliError> {
        let path = std::env::temp_dir().join(format!("reckon-bench-{}-{name}", std::process::id()));
        let file = |cause| CliError::File {
            path: path.clone(),
            cause,
        };
        std::fs::create_dir_all(&path).map_err(file)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of worth is in it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
