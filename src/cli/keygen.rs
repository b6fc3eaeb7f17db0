//! `reckon keygen`: a key that signs for the operator.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::CliError;
use super::terminal::say;
use crate::config::operator_key::OperatorKeyFile;
use crate::wire::operator_keys::to_line;

/// Make an operator's key: it signs control records where others write the log, too
#[derive(Debug, Args)]
#[command(
    after_help = "Writes the private key (PKCS#8 in PEM, readable by its owner alone) to PATH and the public one to PATH.pub, \
and prints the public one. Neither is overwritten.

Whoever can read the private key can change what is billed: keep it where control records are published from, and nowhere else.

Example:
  reckon keygen --out ./ops-1.pem --id ops-1"
)]
pub struct Keygen {
    /// File for the private key; the public one goes to PATH.pub
    #[arg(long, value_name = "PATH")]
    out: PathBuf,

    /// Its id, if it isn't to be the day and a part of the key: 1 to 128 bytes, no colon
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

impl Keygen {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let file = OperatorKeyFile::new(self.out);
        let signer = file.make(self.id.as_deref())?;
        let line = to_line(&signer.operator_key());
        if json {
            let (private, public) = (
                file.path().display().to_string(),
                file.public_path().display().to_string(),
            );
            say!(
                "{}",
                json!({"key_id": signer.key_id(), "public_key": line, "private_file": private, "public_file": public})
            )?;
        } else {
            eprintln!(
                "made key {} in {}; its public key is in {}:",
                signer.key_id(),
                file.path().display(),
                file.public_path().display()
            );
            say!("{line}")?;
        }
        Ok(())
    }
}
