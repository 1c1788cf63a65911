#!/usr/bin/env bash
# The demo: a server and a phone, two processes. The phone's texts stay in its folder.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${CARGO_TARGET_DIR:-target}/debug"
work="${DEMO_DIR:-build/demo}"
mkdir -p "$work"
port="$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')"

headstart() { "$bin/headstart" --workspace "$work/server" "$@"; }
phone() { "$bin/headstart-device" --state "$work/phone" "$@"; }

# The phone is paired once: an invitation brings the two keys together. `$work` keeps both from an earlier demo.
invitation=()
if [ ! -e "$work/phone/engine.json" ]; then
  invitation=("$(headstart --quiet devices invite phone --url "https://127.0.0.1:$port")")
else
  key="$(headstart --quiet devices key)"
  invitation=("https://127.0.0.1:$port" --name phone --engine-key "$key")
fi
# What an earlier demo approved may not be what this one proposes.
[ ! -e "$work/phone/secret" ] || phone --quiet contract --reset
# Numbers over fewer than 20 rows stay on a device, unless its owner says otherwise: later.jsonl has 14.
# Nobody is here to approve what the pipeline runs on the phone, so its first proposal is taken as it comes.
# Not through the function: a shell around it would be ended instead of the device.
"$bin/headstart-device" --state "$work/phone" join "${invitation[@]}" --data examples/first-light/phone \
  --holds charging,unmetered,idle --min-rows 10 --approve first \
  >"$work/phone.log" 2>&1 &
device=$!
trap 'kill $device 2>/dev/null || true' EXIT

run() {
  headstart run pipelines/personalize.pllm --listen "127.0.0.1:$port" "$@"
}

run --report "$work/report.html"

echo
echo "── What only the phone knows ──────────────────────────────────────────────"
phone show
phone show --report "$work/phone.html"

echo
echo "── The same pipeline again: everything is cached ──────────────────────────"
run >/dev/null
echo
echo "The server's page: $work/report.html"
echo "The phone's own page, for its owner alone: $work/phone.html"
