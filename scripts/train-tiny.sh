#!/usr/bin/env bash
# Writes the demonstration corpus, trains the model and the catalog, and copies both to examples/.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${CARGO_TARGET_DIR:-target}/debug"
corpus=build/corpus
"$bin/headstart-corpus" --out "$corpus"
rm -rf build/tiny
"$bin/headstart" --workspace build/train run pipelines/train-tiny.pllm --out build/tiny "$@"

rm -rf examples/models/tiny examples/catalog
mkdir -p examples/models
cp -r build/tiny/tiny examples/models/tiny
cp -r build/tiny/catalog examples/catalog
du -sh examples/models/tiny examples/catalog
