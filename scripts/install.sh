#!/usr/bin/env bash
# Builds both commands with optimisation and installs them: commands into PREFIX/bin, libduckdb into
# PREFIX/lib/headstart, where the commands look for it. Without PREFIX they go where `cargo install` puts
# its commands, which rustup has put on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix="${PREFIX:-${CARGO_HOME:-$HOME/.cargo}}"
profile="${PROFILE:-release}"
case "$profile" in dev) folder=debug ;; *) folder="$profile" ;; esac

HEADSTART_RELOCATABLE=1 cargo build --profile "$profile" --workspace --bins --locked
mkdir -p "$prefix/bin" "$prefix/lib/headstart"
for command in headstart headstart-device; do
  # A running command keeps its file: the new one takes its name.
  cp "$CARGO_TARGET_DIR/$folder/$command" "$prefix/bin/.$command.new"
  mv -f "$prefix/bin/.$command.new" "$prefix/bin/$command"
done
cp -f "$DUCKDB_LIB_DIR"/libduckdb.* "$prefix/lib/headstart/"

version="$(env -u LD_LIBRARY_PATH "$prefix/bin/headstart" --version)"
echo "installed $version into $prefix/bin"
case ":$PATH:" in
  *":$prefix/bin:"*) ;;
  *) echo "warning: $prefix/bin is not on your PATH; add it: export PATH=\"$prefix/bin:\$PATH\"" >&2 ;;
esac
