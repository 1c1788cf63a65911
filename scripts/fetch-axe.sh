#!/usr/bin/env bash
# Fetches axe-core, with which the tests look at the page as a screen reader's user would, checks its digest, and prints
# the path of its script. It is used by tests alone, and is no part of what is built.
set -euo pipefail

version=4.14.1
sha512=FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==
dir="${HEADSTART_CACHE:-$HOME/.cache/headstart}/axe-core/$version"
if [ ! -e "$dir/.complete" ]; then
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack --silent "axe-core@$version" >/dev/null)
  tgz="$(echo "$work"/*.tgz)"
  got="$(python3 -c 'import base64,hashlib,sys;print(base64.b64encode(hashlib.sha512(open(sys.argv[1],"rb").read()).digest()).decode())' "$tgz")"
  if [ "$got" != "$sha512" ]; then
    echo "axe-core $version has digest $got, expected $sha512; refusing it" >&2
    exit 1
  fi
  tar -xzf "$tgz" -C "$work"
  mkdir -p "$dir"
  cp "$work/package/axe.min.js" "$work/package/LICENSE" "$dir/"
  touch "$dir/.complete"
fi
echo "$dir/axe.min.js"
