#!/usr/bin/env bash
# run.sh [SECONDS]: fuzzes parse, check and format side by side, SECONDS each (default 1800), on a
# stable compiler. Seeds are the pipelines of tests/spec, of docs/ and of pipelines/. What is found lies in
# artifacts/; the last lines of each log say how much was tried.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-1800}
command -v cargo-fuzz > /dev/null || cargo install --locked cargo-fuzz
# libFuzzer's instrumentation is behind flags that the stable compiler takes only with this; no
# sanitizer, as there is no unsafe code to watch: it looks for panics, hangs and broken promises.
export RUSTC_BOOTSTRAP=1

mkdir -p corpus/seeds logs
rm -f corpus/seeds/*
cp ../../pipelines/*.pllm ../../pipelines/*/*.pllm corpus/seeds/ 2> /dev/null || true
for page in ../tests/spec/*.md ../src/codes/*.md ../../docs/language.md; do
  # Each fence of pipeline text is a seed.
  awk -v base="corpus/seeds/$(basename "$page" .md)" '
    /^```pllm/ { n++; out = sprintf("%s-%03d.pllm", base, n); printf "" > out; next }
    /^```/ { if (out) close(out); out = ""; next }
    out { print > out }' "$page"
done
echo "$(ls corpus/seeds | wc -l) seeds"

cargo fuzz build -s none
running=()
for target in parse check format; do
  mkdir -p "corpus/$target" "artifacts/$target"
  cargo fuzz run -s none "$target" "corpus/$target" corpus/seeds -- \
    -dict=words.dict -max_len=4096 -timeout=10 -rss_limit_mb=2048 -max_total_time="$seconds" \
    -print_final_stats=1 > "logs/$target.log" 2>&1 &
  running+=($!)
done
failed=0
for pid in "${running[@]}"; do wait "$pid" || failed=1; done
for target in parse check format; do
  echo "$target: $(grep -h 'stat::number_of_executed_units\|stat::slowest' "logs/$target.log" | tr -s ' ' | tr '\n' ' ')"
  grep -h ' cov: ' "logs/$target.log" | tail -n 1
  grep -h 'panicked at\|ERROR: libFuzzer' "logs/$target.log" || true
done
exit $failed
