"""The other side of `make bench`: the same work by the Python libraries.

    peers.py lora DIR [key=value…]          PyTorch + PEFT
    peers.py generate DIR [key=value…]      transformers
    peers.py llama FILE.gguf [key=value…]   llama.cpp
    peers.py embed DIR TEXTS [key=value…]   PyTorch + transformers, as sentence-transformers does it

A worker reads a line, does one round of its work and prints what it took and found as JSON, as our own
side does (models/gpu/examples/bench).
"""

import json
import resource
import sys
import time


def rss_peak():
    """Bytes that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tokens(row, count, vocab):
    """The tokens of a row: the same in every program of the benchmark."""
    return [(row * 7919 + t * 104_729 + 17) % (vocab - 3) + 3 for t in range(count)]


def rounds(name, imported, work):
    print(json.dumps({"ready": True, "peer": name, "imported": imported}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        found = work()
        found["seconds"] = time.perf_counter() - start
        print(json.dumps(found), flush=True)


def load(directory, s):
    import torch
    from transformers import AutoModelForCausalLM

    # On a GPU a frozen model is loaded in its stored type, as is usual there and as ours does.
    dtype = "auto" if s.get("gpu", 0) else torch.float32
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).to(place(s))


def place(s):
    return "cuda" if s.get("gpu", 0) else "cpu"


def lora(directory, s):
    import peft
    import torch
    import transformers

    torch.set_num_threads(s.get("threads", 2))
    imported = rss_peak()
    base = load(directory, s)
    config = peft.LoraConfig(r=s.get("rank", 8), lora_alpha=16, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    model = peft.get_peft_model(base, config)
    if s.get("checkpoint", 0):
        base.gradient_checkpointing_enable()
        base.enable_input_require_grads()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    vocab = base.config.vocab_size
    ids = torch.tensor([tokens(r, s.get("tokens", 256), vocab) for r in range(s.get("rows", 1))]).to(place(s))

    def step():
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item()}

    rounds(f"PyTorch {torch.__version__} + PEFT {peft.__version__} (transformers {transformers.__version__})", imported, step)


def generate(directory, s):
    import torch
    import transformers

    torch.set_num_threads(s.get("threads", 2))
    imported = rss_peak()
    model = load(directory, s).eval()
    prompts = [tokens(r, s.get("tokens", 32) - r % 8, model.config.vocab_size) for r in range(s.get("prompts", 50))]
    longest, new = max(map(len, prompts)), s.get("new", 64)
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts]).to(place(s))
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]).to(place(s))
    model.generation_config.eos_token_id = None

    def answer():
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
            )
        made = out[:, longest:].tolist()
        return {"tokens": sum(map(len, made)), "answers": made}

    rounds(f"transformers {transformers.__version__} on PyTorch {torch.__version__}", imported, answer)


def llama(path, s):
    """Parallel decoding by the low-level interface, as llama.cpp's own `parallel` example does it."""
    import ctypes

    import llama_cpp as L
    import numpy as np

    imported = rss_peak()
    L.llama_backend_init()
    quiet = L.llama_log_callback(lambda *_: None)
    L.llama_log_set(quiet, ctypes.c_void_p())
    model_settings = L.llama_model_default_params()
    model_settings.n_gpu_layers = 0
    model = L.llama_model_load_from_file(path.encode(), model_settings)
    if not model:
        sys.exit(f"llama.cpp cannot read {path}")
    vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    count, new = s.get("prompts", 50), s.get("new", 64)
    prompts = [tokens(r, s.get("tokens", 32) - r % 8, vocab) for r in range(count)]
    settings = L.llama_context_default_params()
    total = sum(map(len, prompts))
    settings.n_ctx = total + count * (new + 1) + 256
    settings.n_batch = settings.n_ubatch = max(total, 512)
    settings.n_seq_max = count
    settings.n_threads = settings.n_threads_batch = s.get("threads", 2)
    settings.kv_unified = True
    context = L.llama_init_from_model(model, settings)
    batch = L.llama_batch_init(total, 0, 1)

    def put(i, token, position, sequence, logits):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, logits
        batch.seq_id[i][0] = sequence

    def best(row):
        logits = np.ctypeslib.as_array(L.llama_get_logits_ith(context, row), shape=(vocab,))
        return int(logits.argmax())

    def answer():
        L.llama_memory_clear(L.llama_get_memory(context), True)
        i, last = 0, []
        for sequence, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                put(i, token, position, sequence, position == len(prompt) - 1)
                i += 1
            last.append(i - 1)
        batch.n_tokens = i
        answers = [[] for _ in prompts]
        for step in range(new):
            if L.llama_decode(context, batch) != 0:
                sys.exit("llama.cpp failed to decode")
            for sequence, answer in enumerate(answers):
                answer.append(best(last[sequence]))
            for sequence, answer in enumerate(answers):
                put(sequence, answer[-1], len(prompts[sequence]) + step, sequence, True)
            batch.n_tokens, last = count, list(range(count))
        return {"tokens": count * new, "answers": answers}

    rounds(f"llama.cpp (llama-cpp-python {L.__version__})", imported, answer)


def embed(directory, texts, s):
    import torch
    import transformers

    torch.set_num_threads(s.get("threads", 2))
    imported = rss_peak()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    with open(texts, encoding="utf-8") as file:
        lines = file.read().splitlines()

    def encode():
        # Batches of 32 by falling length, as sentence-transformers makes them.
        order = sorted(range(len(lines)), key=lambda i: -len(lines[i]))
        vectors = [None] * len(lines)
        with torch.inference_mode():
            for at in range(0, len(order), 32):
                part = order[at : at + 32]
                batch = tokenizer(
                    [lines[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="pt"
                )
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1).float()
                mean = (hidden * mask).sum(1) / mask.sum(1)
                mean = torch.nn.functional.normalize(mean, dim=1)
                for i, v in zip(part, mean.tolist()):
                    vectors[i] = v
        return {"texts": len(lines), "vectors": vectors}

    rounds(f"PyTorch {torch.__version__} + transformers {transformers.__version__}", imported, encode)


def main():
    kind, *rest = sys.argv[1:]
    plain = [a for a in rest if "=" not in a]
    settings = {k: int(v) for k, v in (a.split("=", 1) for a in rest if "=" in a)}
    {"lora": lora, "generate": generate, "llama": llama, "embed": embed}[kind](*plain, settings)


if __name__ == "__main__":
    main()
