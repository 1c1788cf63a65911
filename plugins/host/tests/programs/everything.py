#!/usr/bin/env python3
"""A stage for every type that the SDK knows."""

import ctypes
import datetime
import errno
import os
import pathlib
import subprocess
from typing import Literal, Optional, Union

import headstart
from headstart import Bytes, Dataset, Metrics, Mix, Model, Pllm, Responses

import helper


HERE = pathlib.Path(__file__).parent


@headstart.stage(version=2, device=False, files=[HERE.parent / "words.txt", "../words.txt"])
def tell(
    rows: Union[Dataset, Responses],
    many: dict[str, Metrics],
    words: list[str],
    at: pathlib.Path,
    wait: datetime.timedelta,
    room: Bytes,
    mode: Literal["fast", "slow"] = "fast",
    deep: bool = False,
    n: int = 3,
    x: float = 0.5,
    name: str = "nobody",
    other: Optional[Model] = None,
) -> Dataset:
    """Tells what it was given.

    Then some more.

    rows: the rows,
      of any kind
    n: how many
    """
    yield_rows = [{"prompt": "rows", "response": str([r["response"] for r in rows.rows()])}]
    told = {
        "many": {k: m["loss"] for k, m in many.items()}, "words": words, "at": at.name, "wait": wait.total_seconds(),
        "room": int(room), "mode": mode, "deep": deep, "n": n, "x": x, "name": name, "other": other,
        "beside": (HERE / "../words.txt").read_text(), "id": helper.shout(rows.type), "threads": headstart.threads(),
    }
    return Dataset.of(yield_rows + [(key, str(value)) for key, value in told.items()])


@headstart.stage
def noisy(lines: int = 2) -> Metrics:
    """Prints in every way that reaches standard output."""
    print("from print")
    os.write(1, b"from the descriptor\n")
    ctypes.CDLL(None).puts(b"from C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "from a process"], check=True)
    headstart.progress(1, total=lines, unit="lines", loss=0.5)
    headstart.count("lines", lines)
    return Metrics(lines=lines)


@headstart.stage(cached=False, metrics=[headstart.Number("loss", -100, 100, digits=3), "steps"])
def train(base: Model, mix: Mix, fail: Literal["no", "raise", "say", "input", "failure", "memory", "exit", "disk"] = "no") -> Pllm:
    """Makes an adapter of nothing."""
    if fail == "raise":
        raise ValueError("no gradient")
    if fail == "say":
        raise headstart.Failure("the data is empty", help="fill it", transient=True)
    if fail == "input":
        raise headstart.InputError("two bases", help="give one")
    if fail == "failure":
        raise headstart.Failure("no rows")
    if fail == "memory":
        raise MemoryError
    if fail == "exit":
        os._exit(1)
    if fail == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    folder = headstart.scratch() / "out"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return Pllm.of(folder, base=base, metrics={"loss": sum(w for w, _, _ in mix)})


@headstart.stage
def endless() -> Metrics:
    """Runs until it is asked to stop."""
    n = 0
    while True:
        n += 1
        headstart.progress(n)


if __name__ == "__main__":
    headstart.main()
