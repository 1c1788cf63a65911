#!/usr/bin/env python3
"""Tries what a custom stage should not be able to do, and tells what it could."""

import os
import pathlib
import socket
import subprocess
import tempfile

import headstart
from headstart import Metrics


def could(attempt) -> bool:
    try:
        attempt()
        return True
    except OSError:
        return False


def something(path):
    # Some kernels open the file and give nothing.
    if not open(path, "rb").read():
        raise OSError("it is empty")


def send(family, kind, address):
    with socket.socket(family, kind) as s:
        s.connect(address)
        s.send(b"secret")


@headstart.stage
def pry(given: pathlib.Path, secret: str, port: int, parent: int) -> Metrics:
    """Tries everything. secret: a file beside the given one"""
    secret = pathlib.Path(secret)
    local = str(secret.parent / "socket")
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"mine")
        home = pathlib.Path("~/cache").expanduser()
        home.write_text("mine")
    return Metrics(
        reads_what_it_was_given=given.read_text() == "given",
        runs_programs=subprocess.run(["ls", "/usr/lib"], capture_output=True).returncode == 0,
        has_home_and_temporary_files=home.read_text() == "mine",
        reads_a_secret=could(secret.read_text),
        reads_it_by_another_program=subprocess.run(["cat", str(secret)], capture_output=True).returncode == 0,
        lists_folders=could(lambda: os.listdir(secret.parent)),
        writes_beside_it=could(lambda: (secret.parent / "new").write_text("x")),
        changes_itself=could(lambda: pathlib.Path(__file__).write_text("x")),
        links_out=could(lambda: os.link(secret, "link") or pathlib.Path("link").read_text()),
        opens_tcp=could(lambda: send(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port))),
        opens_udp=could(lambda: send(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", port))),
        opens_local_sockets=could(lambda: send(socket.AF_UNIX, socket.SOCK_STREAM, local)),
        reads_the_runners_environment=could(lambda: something(f"/proc/{parent}/environ")),
        reads_the_runners_memory=could(lambda: open(f"/proc/{parent}/mem", "rb").close()),
        has_the_runners_variables="CARGO_MANIFEST_DIR" in os.environ,
        signals_the_runner=could(lambda: os.kill(parent, 0)),
    )


headstart.main()
