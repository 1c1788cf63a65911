#!/usr/bin/env bash
# Makes the Python environment of `make parity` and `make bench` once, outside the clone, and prints the path
# of its interpreter. Nothing that Headstart itself needs is in it.
#
# On Linux PyPI's torch is the CUDA build: its libraries must be there even where no GPU is (about 2.5 GB to
# download, 6 GB on disk). They also count in the process's memory, so subtract what is resident after the
# imports when memory is compared. Where the CPU build can be had, name its index in HEADSTART_TORCH_INDEX.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
requirements="$here/python/requirements.txt"
cache="${HEADSTART_CACHE:-$HOME/.cache/headstart}"
python="${PYTHON:-python3}"
stamp="$( (cat "$requirements"; "$python" --version) | cksum | cut -d' ' -f1)"
dir="$cache/python/$stamp"

mkdir -p "$cache/python"
exec 9>"$cache/python/.lock"
if command -v flock >/dev/null; then flock 9; fi
if [ ! -e "$dir/.complete" ]; then
  rm -rf "$dir"
  echo "making the Python environment in $dir (once; minutes)" >&2
  "$python" -m venv "$dir" >&2
  if [ -n "${HEADSTART_TORCH_INDEX:-}" ]; then
    "$dir/bin/pip" install --quiet --index-url "$HEADSTART_TORCH_INDEX" "$(grep '^torch==' "$requirements")" >&2
  fi
  "$dir/bin/pip" install --quiet -r "$requirements" >&2
  "$dir/bin/python" -c 'import torch, transformers, peft, safetensors' >&2
  touch "$dir/.complete"
fi
echo "$dir/bin/python"
