#!/usr/bin/env bash
# Builds models/mlx against MLX's CPU build for Linux and runs its tests; arguments go to cargo
# test. Cargo sees a shadow of the workspace (links to its folders, copies of its two files), in
# which mlx-sys is replaced: neither Cargo.toml nor Cargo.lock of the clone changes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${HEADSTART_CACHE:-$HOME/.cache/headstart}
MLX_LINUX=$("$here/prepare.sh")
export MLX_LINUX
export LD_LIBRARY_PATH=$MLX_LINUX/build:$MLX_LINUX/wheel/mlx/lib:$MLX_LINUX/wheel/mlx_cpu.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}

shadow=$cache/mlx-linux/workspaces/$(sha256sum <<<"$root" | cut -c1-12)
mkdir -p "$shadow"
for entry in "$root"/*/; do ln -sfn "${entry%/}" "$shadow/$(basename "$entry")"; done
cp "$root/Cargo.toml" "$root/Cargo.lock" "$shadow/"
cd "$shadow"
# MLX is not thread-safe: one test at a time.
exec cargo test --config "patch.crates-io.mlx-sys.path=\"$here/mlx-sys\"" \
  -p headstart-mlx --features headstart-mlx/mlx "$@" -- --test-threads=1
