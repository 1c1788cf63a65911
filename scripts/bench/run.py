#!/usr/bin/env python3
"""`make bench`: our work and the peers' taking turns on this machine; prints a table of both and their ratio.

    run.py --bench PROGRAM [--python INTERPRETER] [--encoder DIR] [--only PART]… [--rounds N] [--work DIR] [--json FILE] [--gpu]

PROGRAM is the example `bench` of headstart-gpu; INTERPRETER has the peers' libraries (without it only our side
runs, and the table says so). Each side is a process of its own that waits for its turn, so that a busy machine
slows both. Times are medians over the rounds, after one round that does not count. Memory is the most that a
process has had resident (getrusage), mapped files included; of a peer also what is left when the libraries
that it imports are taken off. With --gpu both sides compute on a GPU, PROGRAM being built for it (docs/gpu.md), and
memory is what the process holds on the GPU (nvidia-smi).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
THREADS = 2


class Worker:
    """A process that does a round of its work for each line that it is given."""

    def __init__(self, command):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
        clean |= {"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
        self.errors = open(os.devnull, "wb") if "BENCH_VERBOSE" not in os.environ else None
        self.process = subprocess.Popen(
            [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=clean
        )
        self.seconds, self.last, self.peak = [], {}, 0
        self.about = self.read()

    def read(self):
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        self.close()
        raise RuntimeError(f"{self.process.args[0]} ended early: BENCH_VERBOSE=1 shows why")

    def round(self, counts=True):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.last = self.read()
        if counts:
            self.seconds.append(self.last["seconds"])

    def on_gpu(self):
        """Bytes that the process holds on the GPU."""
        query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
        rows = [[int(x) for x in line.split(",")] for line in lines]
        return sum(used << 20 for pid, used in rows if pid == self.process.pid)

    def close(self):
        if self.peak:
            return
        self.process.stdin.close()
        _, _, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = 0
        self.peak = usage.ru_maxrss * 1024

    def time(self):
        return statistics.median(self.seconds)


def same_loss(ours, peer):
    return f"loss {ours['loss']:.4f} and {peer['loss']:.4f}"


def same_answers(ours, peer):
    pairs = [(a, b) for x, y in zip(ours["answers"], peer["answers"]) for a, b in zip(x, y)]
    return f"{sum(a == b for a, b in pairs) / len(pairs):.1%} of tokens equal"


def same_vectors(ours, peer):
    worst = max(abs(a - b) for x, y in zip(ours["vectors"], peer["vectors"]) for a, b in zip(x, y))
    return f"largest difference {worst:.1e}"


def seconds(work):
    return lambda worker: f"{worker.time():.3f} s {work}"


def per_second(unit):
    return lambda worker: f"{worker.last[unit] / worker.time():.0f} {unit}/s"


def cases(work, options):
    """What is measured: our command and the peer's, what must agree, and the goals."""
    shape = lambda name: ["shape", name, work / name]
    packed = lambda name, to: ["quantize", work / name, work / f"{name}-{to}", to]
    lora = ["rows=1", "tokens=256", "rank=8"]
    for name in ["smollm-135m", "smollm-360m"]:
        for way, more in [("", []), (", weights streamed", ["stream=1"])]:
            yield dict(
                part="lora", name=f"LoRA step, {name} shape, bf16, 1×256, r 8 on q,v{way}", make=[shape(name)],
                ours=["lora", work / name, *lora, *more], peer=["lora", work / name, *lora], same=same_loss,
                show=seconds("a step"), faster=1.5, memory=0.4,
            )
    for base, limit in [("llama-1b", 3e9), ("llama-1b-q4_k", 1e9)]:
        make = [shape("llama-1b")] + ([packed("llama-1b", "q4_k")] if base != "llama-1b" else [])
        yield dict(
            part="1b", name=f"LoRA step, {base}, 1×256, r 8 on q,v, weights streamed", make=make, rounds=2,
            ours=["lora", work / base, *lora, "stream=1"], show=seconds("a step"), limit=limit,
        )
    yield dict(
        part="stream", name="likelihood of 1×256, llama-1b bf16 (2.5 GB), weights streamed", make=[shape("llama-1b")],
        rounds=2, ours=["score", work / "llama-1b", "rows=1", "tokens=256", "stream=1"], show=seconds("a pass"), limit=0.5e9,
    )
    name, probes = "smollm-135m", ["prompts=50", "tokens=32", "new=64"]
    yield dict(
        part="generate", name=f"greedy answers to 50 probes of 25–32 tokens, 64 new, {name} shape, f32", make=[shape(name)],
        ours=["generate", work / name, *probes], peer=["generate", work / name, *probes], same=same_answers,
        show=per_second("tokens"), faster=2.0, rounds=3,
    )
    file = work / f"{name}-q8_0" / "model.gguf"
    yield dict(
        part="generate", name=f"the same with Q8_0 weights", make=[shape(name), packed(name, "q8_0")],
        ours=["generate", file.parent, *probes], peer=["llama", file, *probes], same=same_answers,
        show=per_second("tokens"), faster=0.8, rounds=3,
    )
    if options.encoder:
        texts = write_texts(work)
        yield dict(
            part="embed", name="sentence vectors, all-MiniLM-L6-v2", make=[], ours=["embed", options.encoder, texts],
            peer=["embed", options.encoder, texts], same=same_vectors, show=per_second("texts"), faster=1.2,
        )


def gpu_cases(work):
    """The same work on a GPU: no goals were set for it."""
    for name in ["smollm-135m", "smollm-360m", "llama-1b"]:
        for rows in [1, 8]:
            lora = [work / name, f"rows={rows}", "tokens=256", "rank=8", "gpu=1"]
            yield dict(
                part="lora", name=f"LoRA step, {name} shape, bf16, {rows}×256, r 8 on q,v", make=[["shape", name, work / name]],
                ours=["lora", *lora], peer=["lora", *lora], same=same_loss, show=seconds("a step"),
            )
        probes = [work / name, "prompts=50", "tokens=32", "new=64", "gpu=1"]
        yield dict(
            part="generate", name=f"greedy answers to 50 probes of 25–32 tokens, 64 new, {name} shape", make=[["shape", name, work / name]],
            ours=["generate", *probes], peer=["generate", *probes], same=same_answers, show=per_second("tokens"), rounds=3,
        )


def write_texts(work):
    """Paragraphs of the project's own documents, one a line."""
    paragraphs, root = [], HERE.parent.parent
    for file in [root / "README.md", *sorted(root.glob("docs/**/*.md"))]:
        for block in file.read_text(encoding="utf-8").split("\n\n"):
            text = " ".join(block.split())
            if 5 <= len(text.split()) <= 120 and text[0].isalpha():
                paragraphs.append(text)
    path = work / "texts.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(paragraphs[:400]) + "\n", encoding="utf-8")
    return path


def run(case, options):
    """A row of the table."""
    mine = Worker([options.bench, *case["ours"]])
    other, why = None, "the goal is a limit, not a peer"
    if case.get("peer"):
        other, why = start_peer(case, options)
    workers = [w for w in (mine, other) if w]
    for i in range(case.get("rounds", options.rounds) + 1):
        for w in workers:
            w.round(counts=i > 0)
    on_gpu = [w.on_gpu() for w in workers] if options.gpu else []
    for w in workers:
        w.close()
    row = {"what": case["name"], "ours": case["show"](mine), "ours_seconds": mine.seconds, "ours_peak": mine.peak}
    if limit := case.get("limit"):
        row["limit"] = limit
    if on_gpu:
        row["on_gpu"] = on_gpu
    if not other:
        return row | {"missing": why}
    imported = other.about["imported"]
    return row | {
        "peer": other.about["peer"], "theirs": case["show"](other), "theirs_seconds": other.seconds,
        "theirs_peak": other.peak, "imported": imported, "faster": other.time() / mine.time(),
        "wanted_faster": case.get("faster"), "memory": mine.peak / other.peak,
        "memory_without_imports": mine.peak / (other.peak - imported), "wanted_memory": case.get("memory"),
        "same": case["same"](mine.last, other.last),
    }


def start_peer(case, options):
    if not options.python:
        return None, "no interpreter with the peers' libraries was named"
    try:
        return Worker([options.python, HERE / "peers.py", *case["peer"]]), None
    except RuntimeError as e:
        return None, str(e)


def profile(case, options):
    """Where our side's time goes, over two rounds."""
    worker = Worker([options.bench, *case["ours"], "profile=1"])
    worker.round()
    worker.round()
    worker.close()
    last = worker.last
    rest = last["seconds"] - sum(last["profile"].values())
    parts = sorted(last["profile"].items(), key=lambda p: -p[1]) + [("everything else", rest)]
    return "; ".join(f"{name} {seconds / last['seconds']:.1%}" for name, seconds in parts if seconds > 0)


def mb(count):
    return f"{count / 1e6:.0f} MB"


def goal(value, wanted, better):
    if wanted is None:
        return f"{value:.2f}"
    return f"{value:.2f} ({goal_word(better(value, wanted))}: {wanted})"


def goal_word(reached):
    return "reached" if reached else "not reached"


def show(row):
    print(f"\n{row['what']}")
    limit = f" ({goal_word(row['ours_peak'] <= row['limit'])}: {mb(row['limit'])})" if "limit" in row else ""
    print(f"  ours   {row['ours']}, peak {mb(row['ours_peak'])}{limit}")
    if "missing" in row:
        print(f"  peer   none: {row['missing']}")
    else:
        print(f"  peer   {row['theirs']}, peak {mb(row['theirs_peak'])}, of which imports {mb(row['imported'])}: {row['peer']}")
        print(f"  times as fast {goal(row['faster'], row['wanted_faster'], lambda a, b: a >= b)}; ", end="")
        print(f"memory {goal(row['memory'], row['wanted_memory'], lambda a, b: a <= b)}, ", end="")
        print(f"without the peer's imports {row['memory_without_imports']:.2f}; {row['same']}")
    if "on_gpu" in row:
        print(f"  held on the GPU {', '.join(mb(used) for used in row['on_gpu'])}")
    if "profile" in row:
        print(f"  ours by parts: {row['profile']}")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bench", required=True)
    p.add_argument("--python")
    p.add_argument("--only", action="append")
    p.add_argument("--rounds", type=int, default=5)
    cache = os.environ.get("HEADSTART_CACHE", os.path.expanduser("~/.cache/headstart"))
    p.add_argument("--work", type=Path, default=Path(cache) / "bench")
    p.add_argument("--encoder", type=Path, help="a folder of all-MiniLM-L6-v2")
    p.add_argument("--json", type=Path)
    p.add_argument("--gpu", action="store_true")
    options = p.parse_args()
    rows = []
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {THREADS} threads a side, medians of {options.rounds}")
    for case in gpu_cases(options.work) if options.gpu else cases(options.work, options):
        if options.only and case["part"] not in options.only:
            continue
        for command in case["make"]:
            made = command[2]
            if not (made / "config.json").exists():
                subprocess.run([str(c) for c in [options.bench, *command]], check=True)
        row = run(case, options)
        if case["part"] in ("lora", "generate") and not options.gpu:
            row["profile"] = profile(case, options)
        rows.append(row)
        show(row)
        sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
