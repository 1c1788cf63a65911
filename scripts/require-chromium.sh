#!/usr/bin/env bash
# The pages are tested in a real browser. Finds Chromium, or installs Debian's; fails where neither works.
set -euo pipefail

if [ -n "${HEADSTART_CHROMIUM:-}" ]; then
  [ -x "$HEADSTART_CHROMIUM" ] && exit 0
  echo "error: HEADSTART_CHROMIUM names $HEADSTART_CHROMIUM, which is not a program" >&2
  exit 1
fi
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo -n)
if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
  echo "installing Chromium, in which the pages are tested" >&2
  ${sudo[@]+"${sudo[@]}"} apt-get update -qq >&2
  ${sudo[@]+"${sudo[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >&2
else
  echo "error: the pages are tested in Chromium, which is not installed" >&2
  echo "help: install it, or name a browser of its kind in HEADSTART_CHROMIUM" >&2
  exit 1
fi
