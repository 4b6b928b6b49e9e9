#!/usr/bin/env python3
"""The peer of examples/tinyshakespeare_gpt.textproto: the same GPT-2, text, cut, optimizer and
schedule under PyTorch on one thread, float32. Prints one JSON object.

usage: gpt_peer.py --text FILE (--steps N | --train N) [--seed 1] [--adam auto]

--steps measures speed, after a few steps that warm up; --train takes so many steps as a whole
training, in an order and from weights of its own, and reports the loss over the test records.

PyTorch gets its best chance: flush-to-zero, its own attention, no logging and no .item() in the loop,
and of its kinds of AdamW the one that a short trial finds fastest.
"""

import argparse
import json
import math
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"{sys.executable} has no PyTorch ({error}); name one that has: "
             "PEAL_PYTHON=/path/to/python")

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from gpt2 import Gpt2  # noqa: E402

CONTEXT, STRIDE, BATCH = 64, 32, 32
LAYERS, HEADS, WIDTH = 4, 4, 128
RATE, LAST, WARMUP, CLIP = 0.002, 0.05, 100, 1.0
ADAMS = {"foreach": {"foreach": True}, "fused": {"fused": True}}


def read_text(path):
    text = open(path, encoding="utf-8").read()
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    return torch.tensor([number[character] for character in text]), len(characters)


def windows(tokens, stride):
    """(N, CONTEXT + 1)"""
    return tokens.unfold(0, CONTEXT + 1, stride)


def batches(records, seed):
    """For ever: a new order each epoch, the last records of each that fill no batch left out."""
    epoch = 0
    while True:
        order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed + epoch))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield records[order[start:start + BATCH]]
        epoch += 1


def loss_of(model, batch):
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))


def factor(step, total):
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(total - WARMUP, 1)
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * progress)) / 2


def make_step(model, adam, total):
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.1,
                                  **ADAMS[adam])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, total))

    def step(batch):
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()

    return step


def steps_a_second(step, data, count):
    begin = time.perf_counter()
    for _ in range(count):
        step(next(data))
    return count / (time.perf_counter() - begin)


def test_loss(model, records):
    with torch.no_grad():
        sums = [loss_of(model, part).item() * len(part) for part in records.split(256)]
    return sum(sums) / len(records)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--text", required=True)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--train", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--adam", choices=["auto", *ADAMS], default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    tokens, vocabulary = read_text(options.text)
    cut = int(0.9 * len(tokens))
    training, testing = windows(tokens[:cut], STRIDE), windows(tokens[cut:], CONTEXT)
    model = Gpt2(vocabulary, CONTEXT, LAYERS, HEADS, WIDTH)
    data = batches(training, options.seed)
    if options.train > 0:
        step = make_step(model, "fused", options.train)
        rate = steps_a_second(step, data, options.train)
        result = {"steps": options.train, "test_loss": test_loss(model, testing)}
    else:
        adam = options.adam
        if adam == "auto":
            def trial(kind):
                step = make_step(model, kind, 10**6)
                steps_a_second(step, data, 3)
                return steps_a_second(step, data, 15)
            adam = max(ADAMS, key=trial)
        step = make_step(model, adam, 10**6)
        steps_a_second(step, data, 5)
        rate = steps_a_second(step, data, options.steps)
        result = {"steps": options.steps, "adam": adam}
    print(json.dumps(result | {"samples_per_second": rate * BATCH, "pytorch": torch.__version__}))


if __name__ == "__main__":
    main()
