"""Custom stages for Headstart pipelines, in one file that needs only Python's standard library.

Keep this file beside your program:

    #!/usr/bin/env python3
    import headstart
    from headstart import Metrics, Responses

    @headstart.stage(version=1)
    def length(responses: Responses, longest: int = 200) -> Metrics:
        \"\"\"How long answers are.

        responses: the answers
        longest: words from which on an answer counts as long
        \"\"\"
        words = [len(row["response"].split()) for row in responses.rows()]
        return Metrics(mean=sum(words) / len(words), long=sum(n > longest for n in words))

    if __name__ == "__main__":
        headstart.main()

`headstart describe tools.py` writes the declaration, `program tools = "tools.py"` names the program
in a pipeline file, and `stage n: Metrics = tools.length(said)` runs the stage.

A decorated function stays a plain function: call it in a test with `Responses.of(rows)`. Whatever
the program prints goes to the log of the attempt. docs/stages.md has the rest.
"""

import dataclasses
import datetime
import hashlib
import inspect
import json
import math
import os
import pathlib
import re
import sys
import threading
import traceback
import types
import typing

PROTOCOL = 1

# Libraries print to standard output, some of them from C. Under a runner, the standard output that
# everybody else sees is standard error, and standard input is empty; messages go over copies of the
# real ones, which programs that are started from here do not inherit. What runs is a copy of the
# program: `_copy` is the folder that holds it, `_folder` the program's folder on disk.
_launched = os.environ.get("HEADSTART_STAGES") is not None
_folder, _copy = os.environ.get("HEADSTART_PROGRAM_FOLDER"), os.environ.get("HEADSTART_PROGRAM_COPY")
_wire = _ears = None
if _launched:
    _wire, _ears = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n"), os.dup(0)
    os.dup2(2, 1)
    _nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(_nothing, 0)
    os.close(_nothing)
    # Whatever this program starts must not look like a stage itself.
    os.environ.pop("HEADSTART_STAGES")
    os.environ.pop("HEADSTART_PROGRAM_FOLDER", None)
    os.environ.pop("HEADSTART_PROGRAM_COPY", None)


class Failure(Exception):
    """Fails the stage with a message for people. The input is wrong, so that `retry:` does not try
    again; unless `transient` says that trying again may help."""

    def __init__(self, message, help=None, transient=False):
        super().__init__(message)
        self.help = help
        self.transient = transient


class InputError(Failure):
    """The input is wrong: fails the stage with a message for people, and `retry:` does not try
    again. It does after every other exception."""

    def __init__(self, message, help=None):
        super().__init__(message, help=help, transient=False)


class Cancelled(BaseException):
    """Raised by `progress` where the stage should stop."""


class Artifact:
    """Something that a stage takes: files in a read-only folder, a small value, references."""

    def __init__(self, raw):
        self.type = raw.get("type", type(self).__name__)
        self.id = raw.get("id")
        self.folder = pathlib.Path(raw["folder"]) if raw.get("folder") else None
        self.files = raw.get("files", {})
        self.value = raw.get("value")
        self.uses = {name: _artifact(used) for name, used in raw.get("uses", {}).items()}

    def __repr__(self):
        return f"<{self.type} {(self.id or 'of this program')[:8]}>"


class _Rows(Artifact):
    """Rows of prompt and response."""

    def __init__(self, raw):
        super().__init__(raw)
        self._own = None

    @classmethod
    def of(cls, rows):
        """Rows made by a stage: dictionaries with `prompt` and `response`, or pairs."""
        out = cls({})
        out._own = rows
        return out

    def rows(self):
        """The rows, one after another, as dictionaries with `prompt` and `response`."""
        if self._own is not None:
            for row in self._own:
                yield row if isinstance(row, dict) else {"prompt": row[0], "response": row[1]}
            return
        with open(self.folder / "rows.jsonl", encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield json.loads(line)


class Dataset(_Rows):
    """Rows of prompt and response."""


class Responses(_Rows):
    """What a model answered to the prompts of a dataset."""


class Model(Artifact):
    """A base language model: a folder in its published format."""


class Pllm(Artifact):
    """A personalized language model; `uses["base"]` is its base."""

    @classmethod
    def of(cls, folder, base, metrics=None):
        """One made by a stage: a folder of the scratch folder with an adapter in PEFT's format or
        a full model, the argument that is its base, and what training reported."""
        out = cls({})
        out.folder, out.uses, out.value = pathlib.Path(folder), {"base": base}, {"metrics": metrics or {}}
        return out


class Divergence(Artifact):
    """How answers differ from the base's, one vector a prompt."""


class Space(Artifact):
    """How text becomes a vector."""


class Catalog(Artifact):
    """Lexicon, metric, and every pLLM's coefficients. Its pLLMs are named, not opened."""


class Selection(Artifact):
    """Which pLLM, or which mix of them, suits a user."""


class Metrics(dict):
    """Named numbers. As an argument, those of another stage."""


class Bytes(int):
    """An amount of memory or storage, in bytes."""


class Mix(list):
    """Weights over pLLMs: a list of (weight, name, Pllm)."""


_ARTIFACTS = {c.__name__: c for c in
              (Model, Pllm, Dataset, Responses, Divergence, Space, Catalog, Selection)}
_NAMES = {bool: "Bool", int: "Int", float: "Float", str: "Text", pathlib.Path: "Path",
          datetime.timedelta: "Duration", Bytes: "Bytes", Mix: "Mix", Metrics: "Metrics",
          **{c: name for name, c in _ARTIFACTS.items()}}


def _artifact(raw):
    if raw.get("type") == "Metrics":
        return Metrics(raw.get("value") or {})
    return _ARTIFACTS.get(raw.get("type"), Artifact)(raw)


# ---- declarations ----

_stages = {}
_files = set()


@dataclasses.dataclass(frozen=True)
class Number:
    """A number that a stage may return, and how much of it may leave a device.

    name: its name
    low, high: the smallest and the largest value that leave; beyond them, these do
    digits: significant digits that leave, 1 to 3
    detail: whether it leaves only if the owner of the device allows details, as for a count
    rows: the argument, or arguments, that bound how many different rows are behind it, where these are not
        the stage's `rows`: an artifact or a file by its rows, a whole number by itself
    """
    name: str
    low: float
    high: float
    digits: int = 2
    detail: bool = False
    rows: str | list[str] | tuple[str, ...] = ()

    def _declared(self) -> dict:
        number = {"name": self.name, "low": self.low, "high": self.high, "digits": self.digits}
        number |= {"detail": True} if self.detail else {}
        return number | {"rows": _listed(self.rows)} if self.rows else number


def _listed(names) -> list:
    return [names] if isinstance(names, str) else list(names)


class _Stage:
    def __init__(self, function, declared, hints):
        self.function, self.declared, self.hints = function, declared, hints


def stage(function=None, *, version=1, server=True, device=True, cached=True, files=(), metrics=(), rows=()):
    """Makes a stage of a function. Types are those of its annotations.

    version: raise it when results change for the same arguments and the same program
    server, device: where it may run
    cached: False where the output depends on more than the arguments
    files: files and folders outside the program's folder that it reads, relative to that folder:
      they are copied with it, and a change of one is a change of the program
    metrics: the numbers that it may return, each a name or a `Number`; where they are declared, it can
        return no others. Only a `Number`, which has bounds, can be released from a device
    rows: the argument, or arguments, that bound how many different rows are behind what it makes: an artifact
        or a file by its rows, a whole number by itself. Left out, it counts as made of one row, and devices
        release no number of it unless their owners allow numbers over one row
    """
    _files.update(_relative(file) for file in ([files] if isinstance(files, (str, os.PathLike)) else files))

    def wrap(f):
        hints = typing.get_type_hints(f)
        declared = _declare(f, hints, version, server, device, cached, metrics, rows)
        _stages[declared["name"]] = _Stage(f, declared, hints)
        return f
    return wrap if function is None else wrap(function)


def _declare(f, hints, version, server, device, cached, metrics, rows):
    doc, about = _documentation(f)
    args = []
    for name, parameter in inspect.signature(f).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{f.__name__}: `{name}` takes any number of arguments, which a stage cannot")
        if name not in hints:
            raise TypeError(f"{f.__name__}: argument `{name}` has no type; write, for instance, `{name}: float`")
        arg = {"name": name, "doc": about.get(name, "")}
        arg.update(_takes(f.__name__, name, hints[name]))
        if parameter.default is None:
            arg["optional"] = True
        elif parameter.default is not parameter.empty:
            default = parameter.default
            if not isinstance(default, (bool, int, float, str)):
                raise TypeError(f"{f.__name__}: the default of `{name}` is {default!r}; "
                                "it can be a number, a truth value, a text, or None")
            arg["default"] = default
        args.append(arg)
    if "return" not in hints or hints["return"] not in _NAMES:
        raise TypeError(f"{f.__name__}: say what it makes, as in `-> Metrics`")
    places = [name for name, may in (("server", server), ("device", device)) if may]
    declared = {"name": f.__name__, "version": version, "doc": doc, "args": args,
                "makes": _NAMES[hints["return"]], "places": places, "cached": cached}
    if isinstance(metrics, (str, Number)):
        raise TypeError(f"{f.__name__}: `metrics` is a list; write `metrics=[{metrics!r}]`")
    if metrics:
        declared["metrics"] = [m._declared() if isinstance(m, Number) else m for m in metrics]
    if rows:
        declared["rows"] = _listed(rows)
    return declared


def _documentation(f):
    """The docstring, and what its lines `name: text` say of arguments."""
    names = inspect.signature(f).parameters
    text, about, last = [], {}, None
    for line in (inspect.getdoc(f) or "").splitlines():
        found = re.match(r"(\w+): +(\S.*)", line)
        if found and found[1] in names:
            last = found[1]
            about[last] = found[2].strip()
        elif last and line.startswith(" ") and line.strip():
            about[last] += " " + line.strip()
        else:
            last = None
            text.append(line)
    return "\n".join(text).strip(), about


def _takes(stage_name, name, hint):
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"one_of": [str(word) for word in inner]}
    unions = (typing.Union, getattr(types, "UnionType", typing.Union))
    alternatives = [h for h in inner if h is not type(None)] if origin in unions else [hint]
    if len(alternatives) == 1 and typing.get_origin(alternatives[0]) is typing.Literal:
        return _takes(stage_name, name, alternatives[0])
    return {"takes": [_type(stage_name, name, h) for h in alternatives]}


def _type(stage_name, name, hint):
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is list and inner and inner[0] in (str, pathlib.Path):
        return f"List<{_NAMES[inner[0]]}>"
    if origin is dict and len(inner) == 2 and inner[0] is str and inner[1] in _NAMES:
        return f"List<{_NAMES[inner[1]]}>"
    if hint in _NAMES:
        return _NAMES[hint]
    known = ", ".join(t.__name__ for t in _NAMES)
    raise TypeError(f"{stage_name}: `{name}` is of type {hint}, which a stage cannot take; it can take {known}, "
                    "list[str], list[Path], dict[str, T], Literal words, and unions of them")


def _relative(file):
    """A declared file, relative to the program's folder. An absolute path may point into the copy
    that runs, or to the file on disk: both give the same relative path."""
    path = os.fspath(file)
    if os.path.isabs(path):
        path = os.path.realpath(path)
        start = os.path.realpath(os.path.dirname(os.path.abspath(sys.argv[0])))
        if _copy and os.path.commonpath([_copy, path]) != _copy:
            start = os.path.realpath(_folder)
        path = os.path.relpath(path, start)
    return pathlib.PurePath(os.path.normpath(path)).as_posix()


# ---- what a stage may say while it runs ----

class _Run:
    scratch = None
    threads = os.cpu_count() or 1
    memory = None
    cancelled = False


_lock = threading.Lock()


def _say(kind, **what):
    if _wire is None:
        return
    line = json.dumps({"headstart": kind, **what}, ensure_ascii=False, allow_nan=False)
    with _lock:
        _wire.write(line + "\n")
        _wire.flush()


def progress(done, total=None, unit="rows", **metrics):
    """Says how far the stage is. Raises `Cancelled` where it should stop."""
    if _Run.cancelled:
        raise Cancelled()
    more = {} if total is None else {"total": int(total)}
    metrics = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
    _say("progress", done=int(done), unit=unit, metrics=metrics, **more)


def count(counter, n=1):
    """Adds to a counter of the attempt, such as `tokens`."""
    _say("count", counter=counter, n=int(n))


def log(message):
    """Writes a line to the log of the attempt, as `print` does."""
    print(message, file=sys.stderr, flush=True)


def cancelled():
    """Whether the stage should stop."""
    return _Run.cancelled


def scratch():
    """An empty folder to write into; outside of a run, a new temporary one."""
    if _Run.scratch is None:
        import tempfile
        _Run.scratch = pathlib.Path(tempfile.mkdtemp(prefix="stage-"))
    return _Run.scratch


def threads():
    """How many threads the stage may use."""
    return _Run.threads


def memory():
    """How many bytes of memory the stage may use, or None."""
    return _Run.memory


# ---- values on their way in and out ----

def _read(value, arg):
    takes = arg.get("takes", [])
    if isinstance(value, list) and any(t == "Mix" for t in takes) and value and isinstance(value[0], dict):
        return Mix((t["weight"], t["name"], _artifact(t["pllm"])) for t in value)
    if isinstance(value, list):
        element = next(t[5:-1] for t in takes if t.startswith("List<"))
        if element in ("Text", "Path"):
            return [_scalar(v, element) for _, v in value]
        return {key: _scalar(v, element) for key, v in value}
    plain = [t for t in takes if not t.startswith("List<")]
    return _scalar(value, plain[0] if plain else "Text")


def _scalar(value, ty):
    if isinstance(value, dict):
        return _artifact(value)
    if ty == "Path":
        return pathlib.Path(value)
    if ty == "Duration":
        return datetime.timedelta(milliseconds=value)
    if ty == "Bytes":
        return Bytes(value)
    if ty == "Float" and not isinstance(value, (bool, str)):
        return float(value)
    return value


def _written(name):
    at = _Run.scratch / name
    digest = hashlib.sha256()
    with open(at, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return {"name": name, "size": at.stat().st_size, "sha256": digest.hexdigest()}


def _made(made, makes):
    """What a function returned, as files, a value and references."""
    if makes == "Metrics":
        return {"value": _numbers(made)}
    if makes in ("Dataset", "Responses"):
        rows = made.rows() if isinstance(made, _Rows) else _Rows.of(made).rows()
        with open(_Run.scratch / "rows.jsonl", "w", encoding="utf-8", newline="\n") as out:
            for row in rows:
                row = {"prompt": row["prompt"], "response": row.get("response", "")}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
        return {"files": [_written("rows.jsonl")]}
    if makes == "Pllm":
        if not isinstance(made, Pllm) or made.folder is None or made.id is not None:
            raise InputError("it makes a Pllm: return `Pllm.of(folder, base=…)`")
        files = []
        for at in sorted(p for p in made.folder.rglob("*") if p.is_file()):
            inside = _Run.scratch / at.relative_to(made.folder)
            if at != inside:
                inside.parent.mkdir(parents=True, exist_ok=True)
                os.replace(at, inside)
            files.append(_written(inside.relative_to(_Run.scratch).as_posix()))
        value = {"metrics": _numbers(made.value["metrics"])}
        return {"files": files, "value": value, "uses": {n: a.id for n, a in made.uses.items()}}
    raise InputError(f"a custom stage cannot make a {makes}")


def _numbers(named):
    if not isinstance(named, dict):
        raise InputError(f"metrics are named numbers, but this is {named!r}")
    out = {}
    for name, x in named.items():
        try:
            number = x if isinstance(x, (bool, int)) else float(x)
        except (TypeError, ValueError):
            raise InputError(f"the metric `{name}` is {x!r}, not a number") from None
        if not math.isfinite(number):
            raise InputError(f"the metric `{name}` is {number}, not a finite number")
        out[str(name)] = number
    return out


# ---- the conversation ----

def main():
    """Talks to the runner that started the program. At the end of every program with stages."""
    if not _launched:
        names = ", ".join(_stages) or "none yet"
        print(f"this program has stages for Headstart: {names}\n"
              f"`headstart describe {sys.argv[0]}` declares them for pipeline files", file=sys.stderr)
        sys.exit(2)
    hello = _hear()
    if hello is None:
        sys.exit(0)
    _say("hello", protocol=PROTOCOL, features=["cancel"], files=sorted(_files),
         stages=[s.declared for s in _stages.values()])
    run = _hear()
    if run is None:
        sys.exit(0)
    threading.Thread(target=_obey, daemon=True).start()
    sys.exit(_execute(run))


_heard = b""


def _hear():
    """The next message; None when the runner says no more. Reads the descriptor itself: a buffered
    file that a thread waits for cannot be closed at the end."""
    global _heard
    while b"\n" not in _heard:
        block = os.read(_ears, 1 << 16)
        if not block:
            return None
        _heard += block
    line, _heard = _heard.split(b"\n", 1)
    return json.loads(line)


_finished = False


def _obey():
    """Waits for a cancellation. A runner that is gone needs no result."""
    while True:
        message = _hear()
        if message is None:
            if not _finished:
                os._exit(1)
            return
        if message.get("headstart") == "cancel":
            _Run.cancelled = True


def _execute(run):
    global _finished
    known = _stages[run["stage"]]
    _Run.scratch, _Run.threads = pathlib.Path(run["scratch"]), run["threads"]
    _Run.memory = run.get("memory")
    specs = {arg["name"]: arg for arg in known.declared["args"]}
    try:
        args = {name: _read(value, specs[name]) for name, value in run["args"].items()}
        made = _made(known.function(**args), known.declared["makes"])
    except Cancelled:
        _finished = True
        _say("failed", message="it was told to stop", **{"class": "cancelled"})
        return 1
    except Failure as e:
        _finished = True
        _say("failed", message=str(e), help=e.help, **{"class": "transient" if e.transient else "input"})
        return 1
    except Exception as e:
        # It may pass: a connection, a full disk, memory. A stage that knows better raises InputError.
        _finished = True
        traceback.print_exc()
        at = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{os.path.basename(at.filename)}:{at.lineno}"
        text = f": {e}" if str(e) else ""
        _say("failed", message=f"{type(e).__name__} at {where}{text}", **{"class": "transient"})
        return 1
    _finished = True
    sys.stdout.flush()
    _say("done", **made)
    return 0
