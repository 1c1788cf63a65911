#!/usr/bin/env bash
# run.sh [SECONDS [JOBS [TARGET…]]]: fuzzes each parser of foreign files and messages, SECONDS each (default
# 1800), JOBS of them at a time (default 2), on a stable compiler. What is found lies in artifacts/; the lines
# at the end say how much was tried.
set -uo pipefail
cd "$(dirname "$0")"
seconds=${1:-1800}
jobs=${2:-2}
shift 2 2> /dev/null || shift $#
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(adapter_config model_config tokenizer safetensors gguf chat_template rows messages signed cron)
command -v cargo-fuzz > /dev/null || cargo install --locked cargo-fuzz || exit 1
# libFuzzer's instrumentation is behind flags that the stable compiler takes only with this; no sanitizer, as
# the memory is counted and overflows are checked by the build itself.
# Files that targets read, in memory where there is such a place.
TMPDIR=$(mktemp -d "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)/headstart-fuzz-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
export RUSTC_BOOTSTRAP=1 TOKENIZERS_PARALLELISM=false RAYON_NUM_THREADS=1
# The versions that the programs are built with.
cp ../Cargo.lock .
folder=${CARGO_TARGET_DIR:-$PWD/target}
# FUZZ_BIN=FOLDER takes what was built before.
[ -n "${FUZZ_BIN:-}" ] || cargo fuzz build -s none --target-dir "$folder" || exit 1
triple=$(rustc -vV | sed -n 's/^host: //p')
bin=${FUZZ_BIN:-$folder/$triple/release}

mkdir -p logs
rm -rf corpus/seeds
HEADSTART_FUZZ_SEEDS=1 "$bin/${targets[0]}" > /dev/null || exit 1
seed() { # TARGET FILE…: those that are there, under names of their own
  mkdir -p "corpus/seeds/$1"
  local target=$1 n=0
  shift
  for file in "$@"; do
    [ -f "$file" ] && cp "$file" "corpus/seeds/$target/$((n += 1))-$(basename "$file")"
  done
  return 0
}
fixtures=../models/lm/tests/fixtures
seed adapter_config ../examples/catalog/expert-concise-neutral/adapter_config.json \
  $fixtures/parity/*/adapter/adapter_config.json ../plugins/merge/tests/*/adapter_config.json
seed model_config $fixtures/parity/*/model/config.json ../examples/models/tiny/config.json
seed safetensors $fixtures/parity/*/adapter/adapter_model.safetensors $fixtures/minilm/expected.safetensors
seed rows ../examples/*.jsonl ../examples/*/*.jsonl
seed chat_template templates/*.jinja

one() {
  local target=$1 most=65536
  case $target in chat_template | cron | adapter_config | model_config) most=8192 ;; esac
  mkdir -p "corpus/$target" "artifacts/$target"
  local words=()
  [ -f "dictionaries/$target.dict" ] && words=(-dict="dictionaries/$target.dict")
  "$bin/$target" "corpus/$target" "corpus/seeds/$target" "${words[@]}" -artifact_prefix="artifacts/$target/" \
    -max_len="$most" -timeout=10 -rss_limit_mb=3072 -max_total_time="$seconds" -print_final_stats=1 \
    > "logs/$target.log" 2>&1
}
failed=0
running=0
for target in "${targets[@]}"; do
  one "$target" &
  if [ $((running += 1)) -ge "$jobs" ]; then wait -n || failed=1; running=$((running - 1)); fi
done
while [ $running -gt 0 ]; do wait -n || failed=1; running=$((running - 1)); done
for target in "${targets[@]}"; do
  echo "$target: $(grep -h 'stat::number_of_executed_units\|stat::slowest\|stat::peak_rss' "logs/$target.log" | tr -s ' ' | tr '\n' ' ')"
  grep -h ' cov: ' "logs/$target.log" | tail -n 1
  grep -h 'panicked at\|ERROR: libFuzzer\|FINDING' "logs/$target.log" || true
done
exit $failed
