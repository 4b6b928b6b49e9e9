#!/usr/bin/env python3
"""GPT-2 with a key/value cache under PyTorch on one thread, float32.

usage: torch_generate.py weights --out FILE [--seed 1] [shape]
       torch_generate.py run --weights FILE --prompt N --tokens N [--seed 1] [shape]
       shape: --vocabulary 50257 --context 1024 --layers 12 --heads 12 --width 768

`weights` saves a model of random weights. `run` goes on with the prompt of generate_bench.cpp and
prints, as it does, the time until the first token and the median time of one more.

PyTorch gets its best chance: inference_mode, flush-to-zero, a cache that is made once, the last
position's logits alone, no .item() but for the token that is drawn, and the quickest of the products
that were tried (class Cached).
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from gpt2 import Gpt2  # noqa: E402
from safetensors_file import load, save  # noqa: E402


class Cached:
    """The model of gpt2.py, position by position, over (1, heads, context, depth) keys and values
    of each layer. For one row addmm on (in, out) weights took 26 ms a token where F.linear or addmv
    on (out, in) ones took 31; the head on a transposed copy of the embedding, which costs its memory
    again, 10 to 20% less than on the embedding; matmul, softmax and matmul as much as
    scaled_dot_product_attention."""

    def __init__(self, options):
        self.heads, self.layers = options.heads, options.layers
        self.state = {name.removeprefix("transformer."): value
                      for name, value in load(options.weights).items()}
        self.head = self.state["wte.weight"].t().contiguous()
        shape = (1, options.heads, options.context, options.width // options.heads)
        self.cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(options.layers)]

    def linear(self, name, x):
        y = torch.addmm(self.state[f"{name}.bias"], x[0], self.state[f"{name}.weight"])
        return y.unsqueeze(0)

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"],
                            self.state[f"{name}.bias"])

    def attention(self, layer, x, first):
        end = first + x.shape[1]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for part in self.linear(f"h.{layer}.attn.c_attn", x).chunk(3, -1))
        keys, values = self.cache[layer]
        keys[:, :, first:end] = k
        values[:, :, first:end] = v
        y = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end],
                                           is_causal=first == 0 and end > 1)
        return self.linear(f"h.{layer}.attn.c_proj", y.transpose(1, 2).flatten(-2))

    def logits(self, ids, first):
        """Of the last of ids (1, T), which stand at first, first + 1, ...: (V)"""
        x = F.embedding(ids, self.state["wte.weight"])
        x = x + self.state["wpe.weight"][first:first + ids.shape[1]]
        for layer in range(self.layers):
            x = x + self.attention(layer, self.norm(f"h.{layer}.ln_1", x), first)
            y = self.linear(f"h.{layer}.mlp.c_fc", self.norm(f"h.{layer}.ln_2", x))
            x = x + self.linear(f"h.{layer}.mlp.c_proj", F.gelu(y, approximate="tanh"))
        return (self.norm("ln_f", x[:, -1]) @ self.head)[0]


def make(options):
    return Gpt2(options.vocabulary, options.context, options.layers, options.heads, options.width)


def check(options):
    """The cache gives the logits of gpt2.py."""
    model, cached = make(options), Cached(options)
    model.load_state_dict(load(options.weights))
    ids = torch.arange(12).reshape(1, -1) * 7919 % options.vocabulary
    expected = model(ids)[0, -1]
    cached.logits(ids[:, :9], 0)
    for at in range(9, 12):
        logits = cached.logits(ids[:, at:at + 1], at)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def run(options):
    check(options)
    cached = Cached(options)
    ids = torch.arange(options.prompt).reshape(1, -1) * 7919 % options.vocabulary
    times, at = [], 0
    for _ in range(options.tokens):
        begin = time.perf_counter()
        shares = torch.softmax(cached.logits(ids, at), 0)
        at += ids.shape[1]
        ids = torch.multinomial(shares, 1).reshape(1, 1)
        ids.item()
        times.append(time.perf_counter() - begin)
    print(json.dumps({"first_seconds": times[0],
                      "tokens_per_second": 1 / statistics.median(times[2:]),
                      "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                      "pytorch": torch.__version__}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=["weights", "run"])
    parser.add_argument("--out")
    parser.add_argument("--weights")
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    for name, value in {"vocabulary": 50257, "context": 1024, "layers": 12, "heads": 12,
                        "width": 768}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    with torch.inference_mode():
        if options.what == "weights":
            save(options.out, make(options).state_dict())
        else:
            run(options)


if __name__ == "__main__":
    main()
