#!/usr/bin/env bash
# Puts MLX's CPU build for Linux and mlx-c over it under $HEADSTART_CACHE, once, and prints the
# folder. Reads MLX from PyPI (version and digest pinned in requirements.txt) and mlx-c from the
# crate mlx-sys as Cargo.lock pins it; nothing of theirs is in this repository.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${HEADSTART_CACHE:-$HOME/.cache/headstart}

say() { echo "mlx-linux: $*" >&2; }
fail() { say "$1"; say "  $2"; exit 1; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
  fail "this set-up is for Linux on x86-64, not $(uname -s) on $(uname -m)" \
    "on a Mac, MLX is part of the build: cargo test -p headstart-mlx --features mlx -- --test-threads=1"
need() { command -v "$1" >/dev/null || fail "$1 is not there" "apt-get install $2"; }
need c++ g++
need cmake cmake
need python3 python3
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip" "apt-get install python3-pip"
compiles() { echo "$1" | c++ -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; }
compiles '#include <format>' || compiles '#include <fmt/format.h>' ||
  fail "the C++ compiler has neither <format> nor <fmt/format.h>" "apt-get install libfmt-dev"
[ -n "${LIBCLANG_PATH:-}" ] || ldconfig -p | grep 'libclang[-.]' >/dev/null || compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null ||
  fail "libclang, which reads mlx-c's headers, is not there" "apt-get install libclang-dev"

packages=$(cargo metadata --manifest-path "$root/Cargo.toml" --locked --format-version 1 \
  --all-features --filter-platform x86_64-unknown-linux-gnu) ||
  fail "the crates of Cargo.lock could not be fetched" "see above"
sources=$(python3 -c 'import json, os, sys
for p in json.load(sys.stdin)["packages"]:
    if p["name"] == "mlx-sys": print(os.path.dirname(p["manifest_path"]))' <<<"$packages")
[ -d "$sources/src/mlx-c" ] || fail "the sources of the crate mlx-sys were not found" "cargo fetch"

# To be raised when the commands below build something else from the same files.
recipe=1
key=$(cat "$here/requirements.txt" "$here/half.h" "$here/format.h" "$sources/Cargo.toml" - <<<"$recipe" |
  sha256sum | cut -c1-12)
target=$cache/mlx-linux/$key
mkdir -p "$cache/mlx-linux"
exec 9>"$cache/mlx-linux/lock"
flock 9
if [ ! -e "$target/complete" ]; then
  rm -rf "$target"
  mkdir -p "$target"
  say "fetching MLX"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary :all: --python-version 3.12 --platform manylinux_2_35_x86_64 \
    -d "$target" -r "$here/requirements.txt" >&2
  python3 -m zipfile -e "$target"/mlx_cpu-*.whl "$target/wheel"
  rm "$target"/mlx_cpu-*.whl
  say "building mlx-c (a minute)"
  cp -r "$sources/src/mlx-c" "$target/mlx-c"
  cp "$here/half.h" "$target/mlx-c/mlx/c/half.h"
  log=$target/build.log
  cmake -S "$target/mlx-c" -B "$target/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DMLX_C_BUILD_EXAMPLES=OFF -DMLX_C_USE_SYSTEM_MLX=ON -DMLX_DIR="$target/wheel/mlx/share/cmake/MLX" \
    -DCMAKE_CXX_FLAGS="-include $here/format.h" >"$log" 2>&1 &&
    cmake --build "$target/build" -j "$(nproc)" >>"$log" 2>&1 ||
    fail "mlx-c does not build; the end of $log:" "$(tail -n 20 "$log")"
  touch "$target/complete"
fi
echo "$target"
