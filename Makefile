# Two commands do everything: `make demo`, `make test`.
SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
RECKON := $(TARGET)/release/reckon
# One profile and one set of features for demo, tests and CI: RocksDB's C++ is compiled once (20 minutes on 2 cores).
CARGO = [ ! -f $$HOME/.cargo/env ] || . $$HOME/.cargo/env; cargo
DEMO_DATA ?= reckon-demo

.PHONY: help setup setup-tests build demo test test-local test-kafka lint doc bench fuzz-short clean-demo

help: ## these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## install what a build needs (a no-op when all is there)
	@scripts/setup

build: setup ## the binary, in ${CARGO_TARGET_DIR:-target}/release/reckon
	@echo "building (the first time RocksDB is compiled too: about 20 minutes on 2 cores)"
	@$(CARGO) build --release --locked

demo: build clean-demo ## play synthetic traffic across a month's end and show what it comes to
	@$(RECKON) demo --data $(DEMO_DATA)

clean-demo: ## remove the demo's data
	@rm -rf $(DEMO_DATA)

test: test-local test-kafka ## the whole test suite, with a real Apache Kafka that the tests start themselves

test-local: ## the tests that need nothing but this machine
	@scripts/setup --for-tests
	@$(CARGO) test --release --locked --lib --bins --benches --test fold --test commands --test http --test browser --test tidy --test traces --test delivery

test-kafka: ## the tests on a real Apache Kafka, which is fetched with Maven and started here
	@scripts/setup --for-tests
	@scripts/kafka fetch
	@$(CARGO) test --release --locked --test kafka

lint: setup ## formatting and clippy, warnings denied
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --release --locked --all-targets -- -D warnings

doc: setup ## the crate docs
	@export RUSTDOCFLAGS="-D warnings"; $(CARGO) doc --release --locked --no-deps --lib

bench: build ## how fast the fold is here, beside prost's decode
	@$(RECKON) bench fold --calls 1000000 --rounds 3

fuzz-short: setup ## half a minute of fuzzing a target, without a sanitizer, on stable Rust
	@fuzz/run decode 30
	@fuzz/run apply 30
