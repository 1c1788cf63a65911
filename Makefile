# `make demo` and `make test` set up everything they need on a Linux machine with a Rust toolchain, a C
# compiler, npm and Python. Build results go to a stable place outside the clone, unless CARGO_TARGET_DIR
# names another. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := build
export HEADSTART_CACHE ?= $(HOME)/.cache/headstart
export CARGO_TARGET_DIR ?= $(HEADSTART_CACHE)/target
export DUCKDB_LIB_DIR ?= $(shell scripts/fetch-duckdb.sh)

.PHONY: help build demo test soak test-mlx test-cuda test-metal test-wheel lint deny install wheel parity bench bench-timings train-tiny env fuzz

help: ## List the targets
	@grep -hE '^[a-z-]+( [a-z-]+)*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

build: ## Build both commands (development profile)
	cargo build --workspace --bins --locked

demo: build ## Run a server and a phone end to end
	scripts/demo.sh

# The wheel is installed into an empty virtual environment and run there: cargo has no test for that.
test: build ## Run every test; fixed samples of the long suites
	scripts/require-chromium.sh
	cargo test --workspace --locked --no-fail-fast
	scripts/wheel.sh --profile dev --test

# Full counts of the property tests, and every crash point instead of a sample.
soak: build ## Run the long suites with their full counts (hours)
	scripts/require-chromium.sh
	HEADSTART_SOAK=1 cargo test --workspace --locked --no-fail-fast

# The backend for Apple devices, built and tested on Linux against MLX's CPU build (docs/mlx.md).
test-mlx: ## Test the MLX backend on Linux
	scripts/mlx-linux/test.sh

# Decoders on the GPU of this machine, by the tests that `make test` runs on candle's CPU device (docs/gpu.md).
test-cuda test-metal: test-%: ## Test decoders on this machine's GPU
	HEADSTART_TEST_DEVICE=$${HEADSTART_TEST_DEVICE:-$*} cargo test --locked -p headstart-gpu --features $* --test device

lint: ## Check formatting, clippy and the API documentation; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --locked --document-private-items

deny: ## Check licences, banned crates and sources (deny.toml)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check bans licenses sources

install: ## Install both commands into ~/.cargo/bin (PREFIX=/usr/local for everyone)
	scripts/install.sh

wheel: ## Build a Python wheel with both commands into build/wheel
	scripts/wheel.sh --profile release

# Compares the language-model core with transformers and PEFT, both ways. Not part of `make test`: it
# downloads PyTorch once.
parity: ## Compare the models with transformers and PEFT
	scripts/parity.sh

# Measures beside PyTorch + PEFT, transformers and llama.cpp, which it sets up outside the clone once
# (some gigabytes). Run it on a machine that does nothing else.
bench: ## Measure beside PyTorch, PEFT, transformers and llama.cpp
	scripts/bench.sh

# Tests that print times hold them to their bounds here. Run it on a machine that does nothing else.
bench-timings: build ## Hold the timed tests to their bounds
	HEADSTART_TIMINGS=1 cargo test --locked -p headstart-dsl -p headstart-lsp -p headstart-core -p headstart-driver -p headstart-worker -p headstart-page -- --nocapture

train-tiny: build ## Train the demonstration model and its catalog from text
	scripts/train-tiny.sh

# The language (dsl/fuzz/README.md), then parsers of foreign files and messages (fuzz/README.md).
FUZZ_SECONDS ?= 1800
fuzz: ## Fuzz the pipeline language and every parser of foreign files and messages, half an hour a target
	dsl/fuzz/run.sh $(FUZZ_SECONDS)
	fuzz/run.sh $(FUZZ_SECONDS)

env: ## Print the variables for calling cargo directly: eval "$(make -s env)"
	@echo 'export CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)" DUCKDB_LIB_DIR="$(DUCKDB_LIB_DIR)"'
