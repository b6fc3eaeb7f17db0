//! A workload into a log.

use prost::Message;

use super::{Step, What};
use crate::log::LogError;
use crate::log::appender::Appender;

/// Appends the steps of a workload in their order.
pub fn append_steps(appender: &mut Appender<'_>, steps: impl IntoIterator<Item = Step>) -> Result<(), LogError> {
    for step in steps {
        match step.what {
            What::Tick => appender.tick(step.at_ms)?,
            What::Event(event) => {
                let account = Some(event.account_id.as_str()).filter(|a| !a.is_empty());
                appender.event_at(account, event.encode_to_vec(), Some(step.at_ms))?;
            }
            What::Control(control) => {
                appender.tick(step.at_ms)?;
                appender.control(*control)?;
            }
        }
    }
    Ok(())
}
