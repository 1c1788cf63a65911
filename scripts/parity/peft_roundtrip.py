"""Loads adapters that Headstart wrote into PEFT and compares logits.

Usage: peft_roundtrip.py FIXTURES OURS, where OURS was written by
`cargo run -p headstart-train --example parity_adapters -- FIXTURES OURS`.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, logging

TOLERANCE = 1e-4  # of the largest logit


def main():
    fixtures, ours = map(Path, sys.argv[1:])
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    worst = 0.0
    for folder in sorted(p for p in ours.iterdir() if p.is_dir()):
        ids = load_file(fixtures / folder.name / "expected.safetensors")["input_ids"].long()
        load = lambda: AutoModelForCausalLM.from_pretrained(fixtures / folder.name / "model", dtype=torch.float32).eval()
        line = []
        for adapter in ["saved", "trained", "converted", "from_mlx"]:
            with torch.no_grad():
                theirs = PeftModel.from_pretrained(load(), folder / adapter).eval()(ids).logits
            found = load_file(folder / f"{adapter}.safetensors")["logits"]
            difference = ((found - theirs).abs().max() / theirs.abs().max()).item()
            worst = max(worst, difference)
            line.append(f"{adapter} {difference:.1e}")
        print(f"{folder.name:24} {'  '.join(line)}")
    print(f"largest difference: {worst:.1e} of the largest logit")
    if worst > TOLERANCE:
        sys.exit(f"more than {TOLERANCE}")


main()
