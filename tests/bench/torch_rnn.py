#!/usr/bin/env python3
"""The model of examples/fashion_mnist_lstm.textproto under PyTorch on one thread: samples per second
of whole training steps on random data, as one line of JSON, beside the speed of a matrix product.

usage: torch_rnn.py CELL LENGTH INPUTS BATCH [--steps 20]
"""
import argparse
import json
import time

import torch
from torch import nn


def gemm_gflops(size=768, repeats=5):
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(timed(lambda: a @ b) for _ in range(repeats))
    return 2 * size ** 3 / best / 1e9


def timed(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("cell", choices=["LSTM", "GRU", "TANH"])
    parser.add_argument("length", type=int)
    parser.add_argument("inputs", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    layer = nn.RNN if options.cell == "TANH" else getattr(nn, options.cell)
    rnn = layer(options.inputs, 128, 2, batch_first=True)
    dense = nn.Linear(128, 10)
    optimizer = torch.optim.Adam([*rnn.parameters(), *dense.parameters()], lr=0.002)
    loss_of = nn.CrossEntropyLoss()
    x = torch.randn(16, options.batch, options.length, options.inputs)
    labels = torch.randint(0, 10, (16, options.batch))

    def run(count):
        for i in range(count):
            optimizer.zero_grad(set_to_none=True)
            y, _ = rnn(x[i % 16])
            loss_of(dense(y[:, -1]), labels[i % 16]).backward()
            optimizer.step()

    run(3)
    seconds = timed(lambda: run(options.steps))
    print(json.dumps({"samples_per_second": options.steps * options.batch / seconds,
                      "gemm_gflops": gemm_gflops(), "pytorch": torch.__version__}))


if __name__ == "__main__":
    main()
