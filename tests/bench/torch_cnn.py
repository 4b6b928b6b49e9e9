#!/usr/bin/env python3
"""The CNN of examples/fashion_mnist_cnn.textproto under PyTorch eager on a GPU, beside
`peal bench train` on it, in turns. PyTorch's data is random and lies on the GPU from the start, and
nothing is read back in its loop; Peal prepares its batches in host memory. The part of the time in
which Peal's kernels run is nvidia-smi's, which samples it.

usage: torch_cnn.py PEAL DATA [--batch 64] [--steps 400] [--rounds 3]
DATA holds the t10k files of Fashion-MNIST
"""
import argparse
import json
import statistics
import subprocess
import tempfile
import time

import torch
from torch import nn

JOB = """
data {{
  train {{ idx {{ images: "{data}/t10k-images-idx3-ubyte.gz" labels: "{data}/t10k-labels-idx1-ubyte.gz" }} }}
  preprocess {{ scale {{ factor: 0.0111093 offset: -0.810198 }} }}
}}
model {{ cnn {{ dropout: 0.25 }} }}
optimizer {{ sgd {{ learning_rate: 0.05 momentum: 0.9 nesterov: true weight_decay: 0.0005 }} }}
train {{ epochs: 1000 global_batch: 64 }}
parallel {{ virtual_ranks: 1 device: CUDA }}
"""


def torch_rate(batch, steps, warmup=50):
    device = torch.device("cuda:0")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    images = torch.randn(10000, 1, 28, 28, device=device)
    labels = torch.randint(0, 10, (10000,), device=device)
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(32 * 13 * 13, 128), nn.ReLU(), nn.Dropout(0.25),
                          nn.Linear(128, 10)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True,
                                weight_decay=5e-4)
    loss_of = nn.CrossEntropyLoss()

    def run(count):
        order = torch.randperm(10000, device=device)
        for i in range(count):
            first = i * batch % (10000 - batch)
            index = order[first:first + batch]
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(images[index]), labels[index]).backward()
            optimizer.step()
        torch.cuda.synchronize()

    run(warmup)
    begin = time.perf_counter()
    run(steps)
    return steps * batch / (time.perf_counter() - begin)


def busy_percent():
    """Of the last moment, the part in which the GPU had a kernel to run."""
    time.sleep(0.1)
    said = subprocess.run(["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits",
                           "--id=0"], capture_output=True, text=True, timeout=20, check=False)
    return int(said.stdout) if said.stdout.strip().isdigit() else 0


def bench(peal, job, batch, steps, extra, watch=False):
    """What `peal bench train` says, and with `watch`, which slows it, how busy the GPU was."""
    words = [peal, "bench", "train", job, "--steps", str(steps), "--warmup", "50", "--json", "--set",
             f"train.global_batch={batch}"]
    for setting in extra:
        words += ["--set", setting]
    busy = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        while watch and started.poll() is None:
            busy.append(busy_percent())
        out, err = started.communicate(timeout=120)
    if started.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: exit {started.returncode}\n{err}")
    return json.loads(out.splitlines()[-1]), max(busy, default=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("peal")
    parser.add_argument("data")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="for Peal, path=value")
    options = parser.parse_args()
    ours, theirs, last = [], [], {}
    with tempfile.NamedTemporaryFile("w", suffix=".textproto") as job:
        job.write(JOB.format(data=options.data))
        job.flush()
        for _ in range(options.rounds):
            last, _ = bench(options.peal, job.name, options.batch, options.steps, options.set)
            ours.append(last["samples_per_second"])
            theirs.append(torch_rate(options.batch, options.steps))
        _, busy = bench(options.peal, job.name, options.batch, options.steps * 20, options.set,
                        watch=True)
    peal, torch_ = statistics.median(ours), statistics.median(theirs)
    print(f"batch {options.batch}: Peal {peal:.0f} samples/s, PyTorch eager {torch_:.0f}, "
          f"ratio {peal / torch_:.2f}")
    print(f"a kernel of Peal's runs {busy}% of the time")
    print("Peal's host time: " + ", ".join(f"{key[8:]} {value:.0f}%" for key, value in last.items()
                                           if key.startswith("percent_")))


if __name__ == "__main__":
    main()
