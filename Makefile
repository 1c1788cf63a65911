# `make demo` and `make test` set up everything they need on a machine with a Rust toolchain,
# a C compiler, npm and Python. Build results go to a stable place outside the clone.
SHELL := /bin/bash
export HEADSTART_CACHE ?= $(HOME)/.cache/headstart
export CARGO_TARGET_DIR ?= $(HEADSTART_CACHE)/target
export DUCKDB_LIB_DIR ?= $(shell scripts/fetch-duckdb.sh)
HEADSTART := $(CARGO_TARGET_DIR)/debug/headstart

.PHONY: build demo test test-mlx test-cuda test-metal lint parity bench train-tiny env fuzz

build:
	cargo build --workspace --bins --locked

demo: build
	scripts/demo.sh

test:
	cargo test --workspace --locked --no-fail-fast

# The backend for Apple devices, built and tested on Linux against MLX's CPU build (docs/mlx.md).
test-mlx:
	scripts/mlx-linux/test.sh

# Decoders on the GPU of this machine, by the tests that `make test` runs on candle's CPU device (docs/gpu.md).
test-cuda test-metal: test-%:
	HEADSTART_TEST_DEVICE=$${HEADSTART_TEST_DEVICE:-$*} cargo test --locked -p headstart-lm --features $* --test device

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# Holds the language-model core against transformers and PEFT, both ways. Not part of `make test`: it
# downloads PyTorch once.
parity:
	scripts/parity.sh

# Measures beside PyTorch + PEFT, transformers and llama.cpp, which it sets up outside the clone once
# (some gigabytes). Run it on a machine that does nothing else.
bench:
	scripts/bench.sh

# Trains the demonstration model and its catalog from text, and puts them where the demo looks.
train-tiny: build
	scripts/train-tiny.sh

# Fuzzes the pipeline language: parse, check and format, half an hour each, side by side (dsl/fuzz/README.md).
FUZZ_SECONDS ?= 1800
fuzz:
	dsl/fuzz/run.sh $(FUZZ_SECONDS)

# Prints the variables for calling cargo by hand: eval "$$(make -s env)"
env:
	@echo 'export CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)" DUCKDB_LIB_DIR="$(DUCKDB_LIB_DIR)"'
