#!/usr/bin/env bash
# wheel.sh [--profile dev|release] [--test]: builds a Python wheel with both commands and libduckdb, into
# build/wheel. With --test it is built in a temporary folder, installed into a new virtual environment,
# and run there without anything of this checkout or of the build in reach.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=release test=
while [ $# -gt 0 ]; do
  case "$1" in
    --profile) profile="$2"; shift 2 ;;
    --test) test=1; shift ;;
    *) echo "error: unknown argument \`$1\`" >&2; exit 2 ;;
  esac
done
case "$profile" in dev) folder=debug ;; *) folder="$profile" ;; esac
python="${PYTHON:-python3}"

# What is shipped must not point into this machine's folders. The test takes the build that is there.
[ -n "$test" ] || export HEADSTART_RELOCATABLE=1
cargo build --profile "$profile" --workspace --bins --locked
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cp packaging/wheel/pyproject.toml packaging/wheel/build_hook.py README.md LICENSE "$work/"
mkdir -p "$work/stage/bin" "$work/stage/lib"
for command in headstart headstart-device; do
  # Without debug information: the wheel is for people who run it.
  strip -S -o "$work/stage/bin/$command" "$CARGO_TARGET_DIR/$folder/$command"
  chmod +x "$work/stage/bin/$command"
done
cp "$DUCKDB_LIB_DIR"/libduckdb.* "$work/stage/lib/"
cp "$DUCKDB_LIB_DIR/LICENSE" "$work/LICENSE.duckdb"

# `0.2.0-dev` is `0.2.0.dev0` to Python.
HEADSTART_VERSION="$(cargo metadata --no-deps --format-version 1 --locked |
  "$python" -c 'import json,sys
v = next(p["version"] for p in json.load(sys.stdin)["packages"] if p["name"] == "headstart-cli")
print(v.replace("-dev", ".dev0"))')"
export HEADSTART_VERSION
out="$PWD/build/wheel"
[ -z "$test" ] || out="$work/out"
mkdir -p "$out"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$out" "$work"
wheel="$(ls -t "$out"/headstart_engine-*.whl | head -n 1)"
echo "built $(basename "$wheel")"
[ -n "$test" ] || exit 0

"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-index "$wheel"
# Not a byte of the build may be needed: neither its libraries by rpath nor this folder.
hidden=(env -i "PATH=$work/venv/bin:/usr/bin:/bin" "HOME=$work/home" "LD_LIBRARY_PATH=")
mkdir -p "$work/home"
cd "$work"
loaded="$("${hidden[@]}" ldd "$work/venv/bin/headstart" | grep libduckdb)"
case "$loaded" in
  *"$work/venv/"*) ;;
  *) echo "error: the wheel's command loads another libduckdb: $loaded" >&2; exit 1 ;;
esac
"${hidden[@]}" headstart --version
"${hidden[@]}" headstart-device --version
"${hidden[@]}" headstart init project
"${hidden[@]}" headstart check project/first.pllm
"${hidden[@]}" headstart run --quiet project/first.pllm
echo "the wheel runs in an empty environment"
