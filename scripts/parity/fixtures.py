"""Small random models of every supported kind, LoRA adapters over them, and what transformers and PEFT
compute with them, in the form that `cargo test -p headstart-lm -p headstart-train --test parity` reads.

    HEADSTART_PARITY_DIR=DIR cargo test -p headstart-lm -p headstart-train --test parity

Usage: fixtures.py DIR
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, logging

SIZES = dict(vocab_size=160, intermediate_size=56, num_hidden_layers=3, max_position_embeddings=128)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(hidden=36, heads=9, kv=3, **more):
    config = LlamaConfig(hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv, **SIZES, **more)
    return LlamaForCausalLM(config)


def qwen(**more):
    config = Qwen2Config(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, **SIZES, **more)
    return Qwen2ForCausalLM(config)


def rope(theta):
    return dict(rope_parameters=dict(rope_type="default", rope_theta=theta))


# name: model, stored type, shard size, old spelling of the rotary keys, adapter
CASES = {
    "smollm-f32": (lambda: llama(tie_word_embeddings=True, **rope(10000.0)), torch.float32, None, False,
                   dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
    "smollm2-bf16": (lambda: llama(tie_word_embeddings=True, **rope(100000.0)), torch.bfloat16, None, True,
                     dict(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")),
    "llama31-sharded-bf16": (lambda: llama(hidden=32, heads=4, kv=2, rope_parameters=LLAMA3), torch.bfloat16,
                             "16KB", True,
                             dict(r=4, lora_alpha=16, use_rslora=True, target_modules=ALL,
                                  rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 6},
                                  alpha_pattern={"^model.layers.2.self_attn.v_proj": 5})),
    "llama32-tied-f16": (lambda: llama(hidden=32, heads=4, kv=1, head_dim=16, tie_word_embeddings=True,
                                       rope_parameters=LLAMA3), torch.float16, None, False,
                         dict(r=3, lora_alpha=6, target_modules=r".*\.layers\.[02]\.(?!mlp).*_proj")),
    "llama-linear-rope": (lambda: llama(hidden=32, heads=4, kv=4, rope_parameters=dict(
                              rope_type="linear", rope_theta=10000.0, factor=4.0)), torch.float32, None, False,
                          dict(r=4, lora_alpha=8, target_modules=ALL, exclude_modules=["k_proj", "down_proj"])),
    "llama-biases": (lambda: llama(hidden=32, heads=4, kv=2, attention_bias=True, mlp_bias=True),
                     torch.float32, None, True,
                     dict(r=4, lora_alpha=8, target_modules=ALL, layers_to_transform=[0, 2])),
    "qwen25-tied-bf16": (lambda: qwen(tie_word_embeddings=True, **rope(1000000.0)), torch.bfloat16, None, True,
                         dict(r=4, lora_alpha=8, target_modules=ALL, alpha_pattern={"mlp.*": 3})),
    "qwen25-untied-sharded": (lambda: qwen(use_sliding_window=False, **rope(1000000.0)), torch.float16, "16KB",
                              False, dict(r=4, lora_alpha=4, target_modules=["o_proj", "down_proj"])),
}


def randomize(model, scale):
    """Weights large enough that every part of the model matters; biases and norms are not neutral."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            p.copy_(1 + 0.2 * noise if "norm" in name else scale * noise)


def old_spelling(config_file):
    """`rope_theta` and `rope_scaling`, as files published before transformers 5 say."""
    config = json.loads(config_file.read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters.get("rope_type") == "default" else parameters
    config_file.write_text(json.dumps(config, indent=2))


def losses(model, ids):
    labels = ids.clone()
    labels[:, :6] = -100
    logits = model(ids).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def make(folder, build, dtype, shard, old, lora):
    model = build()
    randomize(model, 0.12)
    model.to(dtype).save_pretrained(folder / "model", max_shard_size=shard or "5GB")
    if old:
        old_spelling(folder / "model/config.json")
    # The reference computes in f32 with what is stored, and reads the same files. (A cast model would
    # keep rotary frequencies that were rounded to its type.)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids = torch.randint(0, 160, (2, 17))
    expected = {"input_ids": ids.int()}
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        expected["logits"] = out.logits
        expected["last_hidden"] = out.hidden_states[-1]
        expected["greedy"] = model.generate(
            ids[:1, :5], max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None).int()
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora)).eval()
    trained = [(n, p) for n, p in peft.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for _, p in trained:
            p.copy_(0.1 * torch.randn(p.shape))
    peft.save_pretrained(folder / "adapter")
    with torch.no_grad():
        expected["adapter_logits"] = peft(ids).logits
    loss = losses(peft, ids)
    loss.backward()
    expected["loss"] = loss.detach().reshape(1)
    for name, p in trained:
        expected["grad." + name.replace(".default", "")] = p.grad
    optimizer = torch.optim.AdamW([p for _, p in trained], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    trace = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = losses(peft, ids)
        trace.append(loss.item())
        loss.backward()
        optimizer.step()
    expected["adamw_loss_trace"] = torch.tensor(trace)
    save_file({k: v.detach().clone().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


def main():
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for i, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(i)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        make(folder, *case)
        print(name, flush=True)


main()
