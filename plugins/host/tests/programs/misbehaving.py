#!/usr/bin/env python3
"""A program that misbehaves in the way that its own file name says. It uses no SDK."""

import ctypes
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

HOW = pathlib.Path(sys.argv[0]).stem
STAGE = {
    "name": "bad", "version": 1, "doc": "Misbehaves.", "args": [], "makes": "Metrics",
    "places": ["server", "device"], "cached": True,
}


def say(kind, **what):
    print(json.dumps({"headstart": kind, **what}), flush=True)


def hear():
    return json.loads(sys.stdin.readline())


def leave(*command, **how):
    """Leaves a process behind, and notes its number beside the original of this program."""
    child = subprocess.Popen(command, **how)
    at = pathlib.Path(os.environ["HEADSTART_PROGRAM_FOLDER"], HOW)
    at.with_suffix(".new").write_text(str(child.pid))
    at.with_suffix(".new").rename(at.with_suffix(".child"))


CHATTER = ["sh", "-c", "while :; do echo tick >&2; sleep 0.01; done"]


def made(name, text):
    data = text.encode()
    pathlib.Path(name).write_bytes(data)
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


if HOW == "exits_early":
    print("no module named torch", file=sys.stderr)
    sys.exit(7)
if HOW == "killed_in_a_shell":
    sys.exit(128 + 9)
if HOW == "silent":
    time.sleep(60)
if HOW == "early":
    say("done", value={"x": 1})
    time.sleep(60)

hear()
if HOW == "noisy":
    print("loading weights: 100%")
    print('{"loss": 0.5}')
    sys.stdout.write("half a line, then ")
    sys.stdout.flush()
    print()
if HOW == "other_version":
    say("hello", protocol=9, stages=[STAGE])
    time.sleep(60)
if HOW == "other_declaration":
    STAGE["doc"] = "Behaves."
if HOW == "other_stage":
    STAGE["name"] = "good"
say("hello", protocol=1, stages=[STAGE], features=["levitate"])
if HOW == "deaf":
    leave("sleep", "300")
    time.sleep(300)
run = hear()

if HOW == "half_a_line":
    sys.stdout.write('{"headstart":"do')
    sys.stdout.flush()
elif HOW == "garbage":
    print('{"headstart":"count","counter":3}', flush=True)
    time.sleep(60)
elif HOW == "too_long":
    say("done", value={"x" * (2 << 20): 1})
    time.sleep(60)
elif HOW == "no_result":
    pass
elif HOW == "missing_file":
    say("done", value={"x": 1}, files=[{"name": "rows.jsonl", "size": 3, "sha256": "00"}])
elif HOW == "wrong_size":
    file = made("a.txt", "abc")
    pathlib.Path("a.txt").write_text("abcd")
    say("done", value={"x": 1}, files=[file])
elif HOW == "wrong_content":
    file = made("a.txt", "abc")
    pathlib.Path("a.txt").write_text("abd")
    say("done", value={"x": 1}, files=[file])
elif HOW == "outside":
    say("done", value={"x": 1}, files=[{"name": "../a.txt", "size": 3, "sha256": "00"}])
elif HOW == "link":
    pathlib.Path("a.txt").symlink_to("/etc/hostname")
    say("done", value={"x": 1}, files=[{"name": "a.txt", "size": 3, "sha256": "00"}])
elif HOW == "linked_folder":
    pathlib.Path("real").mkdir()
    file = made("real/a.txt", "abc")
    pathlib.Path("sub").symlink_to("real")
    say("done", value={"x": 1}, files=[{**file, "name": "sub/a.txt"}])
elif HOW == "hard_link":
    file = made("a.txt", "abc")
    os.link("a.txt", "b.txt")
    say("done", value={"x": 1}, files=[file])
elif HOW == "fifo":
    os.mkfifo("a.txt")
    say("done", value={"x": 1}, files=[{"name": "a.txt", "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}])
elif HOW == "swaps":
    # As soon as its file is opened, a process that it leaves behind puts a link in the file's place.
    file = made("a.txt", "abc")
    secret = pathlib.Path(os.environ["HEADSTART_PROGRAM_FOLDER"], "secret")
    os.symlink(secret, "link")
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init()
    libc.inotify_add_watch(watch, b"a.txt", 0x20)  # IN_OPEN
    if os.fork() == 0:
        os.setsid()
        for stream in range(3):
            os.close(stream)
        os.read(watch, 4096)
        os.rename("link", "a.txt")
        os._exit(0)
    say("done", value={"x": 1}, files=[file])
elif HOW == "crowd":
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(30)]
    time.sleep(60)
elif HOW == "bad_status":
    say("done", value={"x": 1})
    sys.exit(3)
elif HOW == "lingers":
    say("done", value={"x": 1})
    time.sleep(60)
elif HOW == "text_metric":
    say("done", value={"x": "many"})
elif HOW == "unknown_use":
    say("done", value={"x": 1}, uses={"base": "00"})
elif HOW == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif HOW == "heavy":
    held = bytearray(b"x" * (96 << 20))
    time.sleep(60)
elif HOW == "heavy_and_loud":
    held = bytearray(b"x" * (96 << 20))
    while True:
        print("tick", flush=True)
elif HOW == "floods":
    while True:
        print("tick", flush=True)
elif HOW == "chatty_child":
    leave(*CHATTER)
    say("done", value={"x": 1})
elif HOW == "dead_with_chatty_child":
    leave(*CHATTER)
    sys.exit(3)
elif HOW == "escaped_child":
    # It holds the streams open, and does not end with them.
    leave("sleep", "300", start_new_session=True)
    say("done", value={"x": 1})
elif HOW in ("hangs", "leaves_a_child"):
    if HOW == "hangs":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave("sleep", "300")
    if HOW == "hangs":
        while True:
            time.sleep(1)
    say("done", value={"x": 1})
elif HOW == "fails":
    print("the last line of the log", file=sys.stderr, flush=True)
    say("failed", message="the moon is in the way", help="wait", **{"class": "transient"})
    sys.exit(1)
else:
    say("stretch", far=True)
    say("progress", done=1, total=2, unit="rows")
    say("count", counter="rows", n=2)
    say("log", message="a line of its own")
    say("done", value={"x": 1})
