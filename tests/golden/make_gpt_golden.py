#!/usr/bin/env python3
"""Writes gpt.bin: a small GPT-2's logits, loss and gradients (in float64), and the losses of another
one's first ten steps (in float32). Needs PyTorch.

    python3 tests/golden/make_gpt_golden.py
"""

import os

import torch

from golden_file import GoldenFile
from gpt2 import Gpt2, losses

torch.manual_seed(5)
torch.set_num_threads(1)
HERE = os.path.dirname(os.path.abspath(__file__))
FILE = GoldenFile(os.path.join(HERE, "gpt.bin"))


def write_parameters(name, model):
    for parameter, value in model.named_parameters():
        FILE.write(f"{name}/parameter/{parameter}", value)


def first_step():
    model = Gpt2(vocabulary=11, context=6, layers=2, heads=2, width=8)
    for parameter in model.parameters():  # larger than GPT-2 begins with, so that all matters
        scale = 10 if parameter.dim() == 2 else 1
        parameter.data = parameter.data * scale + 0.1 * torch.randn(parameter.shape)
    model.double()
    tokens = torch.randint(11, (3, 7))
    weight = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    logits = model(tokens[:, :-1])
    loss = (losses(logits, tokens[:, 1:]) * weight).sum()
    (loss / weight.sum()).backward()
    for tensor, value in {"x": tokens[:, :-1], "labels": tokens[:, 1:], "weight": weight,
                          "logits": logits, "loss": loss.reshape(1)}.items():
        FILE.write(f"step/{tensor}", value)
    write_parameters("step", model)
    for parameter, value in model.named_parameters():
        FILE.write(f"step/gradient/{parameter}", value.grad)


def ten_steps():
    model = Gpt2(vocabulary=65, context=16, layers=4, heads=4, width=32)
    write_parameters("run", model)
    tokens = torch.randint(65, (10, 8, 17))
    tokens[:, :, 1::2] = (7 * tokens[:, :, 0:-1:2] + 3) % 65  # so that there is something to learn
    FILE.write("run/tokens", tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    seen = []
    for batch in tokens:
        loss = losses(model(batch[:, :-1]), batch[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    FILE.write("run/losses", torch.tensor(seen))


first_step()
ten_steps()
FILE.close()
