#!/usr/bin/env python3
"""Tries what a custom stage should not be able to do, and tells what it could."""

import ctypes
import fcntl
import os
import pathlib
import socket
import subprocess
import tempfile

import headstart
from headstart import Metrics


libc = ctypes.CDLL(None, use_errno=True)


def could(attempt) -> bool:
    try:
        attempt()
        return True
    except OSError:
        return False


def call(result):
    """The result of a call of the C library, or the error that it has set."""
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def in_a_child(attempt):
    """A child may do what the first process of a group may not."""
    child = os.fork()
    if child == 0:
        os._exit(0 if could(attempt) else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise OSError("refused")


def shared_memory():
    IPC_PRIVATE, IPC_RMID = 0, 0
    segment = call(libc.shmget(IPC_PRIVATE, 4096, 0o600))
    libc.shmctl(segment, IPC_RMID, None)


def datagrams(address):
    """A socket of a pair is connected, but one for datagrams can be pointed at another one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.connect(address)
        ours.send(b"secret")


def inherited(descriptor):
    if os.pread(descriptor, 6, 0) != b"secret":
        raise OSError("it is another one")


def write_terminal():
    TIOCSTI = 0x5412
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, TIOCSTI, b"x")


def something(path):
    # Some kernels open the file and give nothing.
    if not open(path, "rb").read():
        raise OSError("it is empty")


def send(family, kind, address):
    with socket.socket(family, kind) as s:
        s.connect(address)
        s.send(b"secret")


@headstart.stage
def pry(given: pathlib.Path, secret: str, port: int, parent: int, left_open: int) -> Metrics:
    """Tries everything. secret: a file beside the given one"""
    secret = pathlib.Path(secret)
    victim = secret.parent / "victim"
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
        reads_by_the_runners_folder=could(lambda: open(f"/proc/{parent}/root{secret}").close()),
        reads_by_the_runners_descriptor=could(lambda: open(f"/proc/{parent}/fd/{left_open}").close()),
        has_the_runners_descriptor=could(lambda: inherited(left_open)),
        writes_its_input=could(lambda: open(given, "a").close()),
        writes_its_input_by_another_name=could(lambda: os.link(given, "mine") or open("mine", "a").close()),
        empties_a_file=could(lambda: call(libc.truncate(os.fsencode(victim), 0))),
        removes_a_file=could(victim.unlink),
        writes_into_shared_folders=could(lambda: tempfile.NamedTemporaryFile(dir="/dev/shm").close())
        or could(lambda: tempfile.NamedTemporaryFile(dir="/tmp").close()),
        marks_a_file=could(lambda: os.setxattr(secret, "user.mark", b"x")),
        leaves_its_session=could(lambda: in_a_child(os.setsid)),
        leaves_its_group=could(lambda: in_a_child(lambda: os.setpgid(0, 0))),
        sends_datagrams=could(lambda: datagrams(str(secret.parent / "log"))),
        shares_memory=could(shared_memory),
        hides_memory=could(lambda: os.close(os.memfd_create("x"))),
        makes_a_user_namespace=could(lambda: in_a_child(lambda: call(libc.unshare(0x10000000)))),
        writes_to_a_terminal=could(write_terminal),
        has_pairs_of_sockets=could(lambda: [s.close() for s in socket.socketpair()]),
    )


headstart.main()
