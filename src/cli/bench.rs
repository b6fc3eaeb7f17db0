//! `reckon bench`: measure on this machine.

pub(super) mod scratch;
pub(super) mod served;
pub(super) mod times;

use clap::{Args, Subcommand};

use super::CliError;

pub(super) fn failed(what: impl std::fmt::Display) -> CliError {
    CliError::Finding(what.to_string())
}

/// Measure on this machine
#[derive(Debug, Args)]
#[command(subcommand_required = true)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Fold(super::bench_fold::Fold),
    #[command(hide = true)]
    FoldUntilKilled(super::bench_fold::FoldUntilKilled),
    Serve(super::bench_serve::BenchServe),
    Kafka(super::bench_kafka::BenchKafka),
    #[command(hide = true)]
    KafkaStage(super::bench_kafka::Stage),
}

impl Bench {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        match self.what {
            What::Fold(fold) => fold.run(json),
            What::FoldUntilKilled(fold) => fold.run(),
            What::Serve(serve) => serve.run(json),
            What::Kafka(kafka) => kafka.run(json),
            What::KafkaStage(stage) => stage.run(),
        }
    }
}
