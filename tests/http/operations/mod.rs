//! Running it: settings, health, metrics, the end, and what is refused at the start.

mod configuration;
mod deployment;
mod scrape;
mod shutdown;
mod start;
