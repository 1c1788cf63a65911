#!/usr/bin/env bash
# Fetches the libduckdb that DuckDB publishes, checks its digest, and prints the folder that holds it.
# Compiling DuckDB from source takes over half an hour on two cores; this takes seconds.
set -euo pipefail

cache="${HEADSTART_CACHE:-$HOME/.cache/headstart}"
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64)          platform=linux-x64    version=1.5.6-r.1 sha512=IXcrZJE6kEqM0Z4wwdVnGBHX/frOS33VPNAwDXQ/Q+Fs84b058Qe94chrCCIcNJlG8Y3UHIUU4eBeCQxW5mN1Q== ;;
  Linux-aarch64)         platform=linux-arm64  version=1.5.5-r.5 sha512=CafH2AIvXtpwDynG3KB/4uEOHRGlFoB7auCRMIwH3BKNIobsANV5LSpDJ3tfyRCFIsK6e8AT1eseWVnu2Dv3cw== ;;
  Darwin-arm64)          platform=darwin-arm64 version=1.5.5-r.5 sha512=WJdeLTFy4pRg60rkbp9smtlP1iIQ8ErtIJkxS+2LQtM1ZZMSByyW+3WPpNoKe7IwPtVl2fLlPw7tDmQW4Z974g== ;;
  Darwin-x86_64)         platform=darwin-x64   version=1.5.5-r.5 sha512=rN0KjX13MwVQ5V5ufykolty/tf4SaafOpGWcUA1Cegf98jPeRdsJsEE1IMXn8n3u6WvMSZEVJmHJ3ma4Hr7Vzg== ;;
  *) echo "no published libduckdb for $(uname -sm); build with: cargo build --features headstart-store/bundled" >&2; exit 1 ;;
esac

dir="$cache/duckdb/$version-$platform"
if [ ! -e "$dir/.complete" ]; then
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack --silent "@duckdb/node-bindings-$platform@$version" >/dev/null)
  tgz="$(echo "$work"/*.tgz)"
  got="$(python3 -c 'import base64,hashlib,sys;print(base64.b64encode(hashlib.sha512(open(sys.argv[1],"rb").read()).digest()).decode())' "$tgz")"
  if [ "$got" != "$sha512" ]; then
    echo "libduckdb $version for $platform has digest $got, expected $sha512; refusing it" >&2
    exit 1
  fi
  tar -xzf "$tgz" -C "$work"
  mkdir -p "$dir"
  cp "$work"/package/libduckdb.* "$work/package/LICENSE" "$dir/"
  touch "$dir/.complete"
fi
echo "$dir"
