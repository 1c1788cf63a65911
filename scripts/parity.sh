#!/usr/bin/env bash
# Holds the language-model core against transformers and PEFT, both ways: models and adapters that they
# write are read here and give their logits, gradients and AdamW trace; adapters that are written here
# load in PEFT, and after conversion in mlx-lm, and give the same logits.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$(scripts/python-env.sh)"
dir="${HEADSTART_CACHE:-$HOME/.cache/headstart}/parity"
rm -rf "$dir"
"$python" -W ignore scripts/parity/fixtures.py "$dir/theirs"
mlx="${HEADSTART_CACHE:-$HOME/.cache/headstart}/python/mlx-0.32.4-lm-0.32.2"
if [ ! -e "$mlx/.complete" ]; then
  rm -rf "$mlx"
  case "$(uname -s)" in Linux) cpu=mlx-cpu==0.32.4 ;; *) cpu=mlx-metal==0.32.4 ;; esac
  # What it needs besides is in the environment already.
  "$python" -m pip install --quiet --no-deps --target "$mlx" mlx==0.32.4 "$cpu" mlx-lm==0.32.2
  touch "$mlx/.complete"
fi
PYTHONPATH="$mlx" "$python" -W ignore scripts/parity/mlx_adapters.py make "$dir/theirs"
HEADSTART_PARITY_DIR="$dir/theirs" cargo test -p headstart-lm -p headstart-train --test parity
cargo run -p headstart-train --example parity_adapters -- "$dir/theirs" "$dir/ours"
"$python" -W ignore scripts/parity/peft_roundtrip.py "$dir/theirs" "$dir/ours"
PYTHONPATH="$mlx" "$python" -W ignore scripts/parity/mlx_adapters.py check "$dir/theirs" "$dir/ours"
