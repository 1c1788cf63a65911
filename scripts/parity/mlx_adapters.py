"""mlx-lm's side of the adapter conversion, computed by mlx-lm itself.

Usage: mlx_adapters.py make FIXTURES   adapters that mlx-lm writes, with its logits, to NAME/mlx
       mlx_adapters.py check FIXTURES OURS   loads what Headstart converted to mlx-lm's format into mlx-lm,
                                             and compares what Headstart made of mlx-lm's adapters
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model, save_config

TOLERANCE = 1e-4  # of the largest logit


def load(case):
    config = json.loads((case / "model/config.json").read_text())
    rope = config.get("rope_parameters")
    # mlx-lm 0.32 reads the scaling of Llama's rotary embedding under its older name only.
    old = {} if rope is None else {"rope_theta": rope["rope_theta"],
                                   "rope_scaling": None if rope["rope_type"] == "default" else rope}
    model, _ = load_model(case / "model", model_config=old)
    model.set_dtype(mx.float32)
    model.eval()
    return model


def ids_of(case):
    return mx.load(str(case / "expected.safetensors"))["input_ids"]


def make(fixtures):
    for i, case in enumerate(sorted(p.parent for p in fixtures.glob("*/expected.safetensors"))):
        mx.random.seed(i)
        model = load(case)
        model.freeze()
        keys = [["self_attn.q_proj", "self_attn.v_proj"], ["self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj"]]
        parameters = {"rank": 3 + i % 2, "scale": 20.0 if i % 2 else 1.7, "dropout": 0.0, "keys": keys[i % 2]}
        layers = -1 if i % 3 else 2
        linear_to_lora_layers(model, layers, parameters)
        weights = {n: 0.05 * mx.random.normal(w.shape) for n, w in tree_flatten(model.trainable_parameters())}
        model.load_weights(list(weights.items()), strict=False)
        folder = case / "mlx"
        folder.mkdir(exist_ok=True)
        save_config({"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters,
                     "model": str(case / "model"), "iters": 10}, folder / "adapter_config.json")
        mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
        mx.save_safetensors(str(case / "mlx.safetensors"), {"logits": model(ids_of(case))})


def difference(found, theirs):
    found, theirs = np.array(found), np.array(theirs)
    return float(np.abs(found - theirs).max() / np.abs(theirs).max())


def check(fixtures, ours):
    worst = 0.0
    for folder in sorted(p for p in ours.iterdir() if p.is_dir()):
        case = fixtures / folder.name
        model = load_adapters(load(case), str(folder / "mlx"))
        model.eval()
        # Headstart's logits with the adapter that this one was converted from.
        there = difference(mx.load(str(folder / "converted.safetensors"))["logits"], model(ids_of(case)))
        back = difference(mx.load(str(folder / "from_mlx.safetensors"))["logits"],
                          mx.load(str(case / "mlx.safetensors"))["logits"])
        worst = max(worst, there, back)
        print(f"{folder.name:24} to mlx-lm {there:.1e}  from mlx-lm {back:.1e}")
    print(f"largest difference from mlx-lm: {worst:.1e} of the largest logit")
    if worst > TOLERANCE:
        sys.exit(f"more than {TOLERANCE}")


{"make": make, "check": check}[sys.argv[1]](*map(Path, sys.argv[2:]))
