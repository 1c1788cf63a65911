#!/usr/bin/env bash
# Writes the demonstration corpus, trains the model and the catalog, and copies both, and the demo's
# texts, to examples/.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${CARGO_TARGET_DIR:-target}/debug"
corpus=build/corpus
"$bin/headstart-corpus" --out "$corpus"
rm -rf build/tiny
"$bin/headstart" --workspace build/train run pipelines/train-tiny.pllm --out build/tiny "$@"

# How each pLLM was trained goes with it: forecasts of what it saves are read from there.
for pllm in build/tiny/catalog/*/; do
  test -s "$pllm/training.json" || { echo "error: ${pllm}training.json is missing" >&2; exit 1; }
done

rm -rf examples/models/tiny examples/catalog
mkdir -p examples/models
cp -r build/tiny/tiny examples/models/tiny
cp -r build/tiny/catalog examples/catalog

# The demo's user: a held-back style, 40 texts to learn from and the later ones to judge by.
user="$corpus/users/held-back/elementary-informative-friendly.jsonl"
cp "$corpus/probes.jsonl" examples/first-light/probes.jsonl
head -n 40 "$user" >examples/first-light/phone/me.jsonl
tail -n +41 "$user" >examples/first-light/phone/later.jsonl
du -sh examples/models/tiny examples/catalog
