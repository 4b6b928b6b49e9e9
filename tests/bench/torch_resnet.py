#!/usr/bin/env python3
"""PyTorch's side of the ResNet scripts, on one thread; the model is tests/golden/resnet.py.

usage: torch_resnet.py speed --batch 64 [--steps 10] [--format auto]
       torch_resnet.py weights --depth 18 --stem cifar --classes 10 --seed 1 --out start.safetensors
       torch_resnet.py train --data FILE --weights start.safetensors --epochs 6 --batch 64 ...
       torch_resnet.py logits --depth 50 --out FOLDER

speed: samples/s of ResNet-18 with CIFAR's stem, SGD with momentum, data from memory; unless named,
the memory format that is quicker here. weights: first values. train: test accuracy after each epoch.
logits: a ResNet's weights after a little noise, pictures and what it makes of them. Each prints one
JSON object a line.
"""

import argparse
import gzip
import json
import math
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden"))

try:
    import torch
    from torch import nn
except ImportError as error:
    sys.exit(f"{sys.executable} has no PyTorch ({error}); name one that has: "
             "PEAL_PYTHON=/path/to/python")

from golden_file import GoldenFile
from resnet import resnet
from safetensors_file import load, save

FORMATS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}
MEAN = torch.tensor([125.3, 123.0, 113.9]).view(1, 3, 1, 1)
STD = torch.tensor([63.0, 62.1, 66.7]).view(1, 3, 1, 1)


def standardized(pictures):
    return (pictures.float() - MEAN) / STD


def make_optimizer(model, rate):
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True,
                           weight_decay=5e-4)


def steps_per_second(options, memory_format, steps, warmup):
    torch.manual_seed(1)
    model = resnet(18, "cifar", 10).to(memory_format=FORMATS[memory_format])
    optimizer = make_optimizer(model, 0.1)
    pictures = torch.randint(0, 256, (4096, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (4096,))
    times = []
    for step in range(warmup + steps):
        begin = time.perf_counter()
        index = torch.randint(0, 4096, (options.batch,))
        x = standardized(pictures[index]).to(memory_format=FORMATS[memory_format])
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), labels[index]).backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return 1 / sorted(times[warmup:])[steps // 2]


def speed(options):
    torch.set_flush_denormal(True)
    formats = list(FORMATS) if options.format == "auto" else [options.format]
    if len(formats) > 1:
        formats.sort(key=lambda name: -steps_per_second(options, name, 2, 1))
    rate = steps_per_second(options, formats[0], options.steps, 2)
    print(json.dumps({"pytorch": torch.__version__, "memory_format": formats[0],
                      "samples_per_second": rate * options.batch,
                      "median_ms_per_step": 1e3 / rate}))


def weights(options):
    torch.manual_seed(options.seed)
    save(options.out, resnet(options.depth, options.stem, options.classes).state_dict())


def read_cifar(path, begin, end):
    data = (gzip.open if path.endswith(".gz") else open)(path, "rb").read()
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, 3073)[begin:end]
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def augmented(pictures):
    """Padded by 4 with zeros and cut at random, mirrored at random: a picture at a time."""
    padded = nn.functional.pad(pictures, (4, 4, 4, 4))
    out = torch.empty_like(pictures)
    for i in range(len(pictures)):
        y, x = torch.randint(0, 9, (2,)).tolist()
        cut = padded[i, :, y:y + 32, x:x + 32]
        out[i] = cut.flip(2) if torch.rand(()) < 0.5 else cut
    return out


def accuracy(model, pictures, labels):
    model.eval()
    with torch.no_grad():
        right = sum((model(standardized(pictures[i:i + 100])).argmax(1) == labels[i:i + 100]).sum()
                    for i in range(0, len(labels), 100))
    model.train()
    return right.item() / len(labels)


def train(options):
    pictures, labels = read_cifar(options.data, 0, options.held_out)
    test = read_cifar(options.data, options.held_out, None)
    model = resnet(18, "cifar", 10)
    model.load_state_dict(load(options.weights))
    torch.manual_seed(options.seed)
    optimizer = make_optimizer(model, options.rate)
    steps = options.epochs * (len(labels) // options.batch)
    step = 0
    for epoch in range(1, options.epochs + 1):
        order = torch.randperm(len(labels))
        for index in order.split(options.batch):
            if step < options.warmup:
                factor = (step + 1) / options.warmup
            else:
                progress = (step - options.warmup) / (steps - options.warmup)
                factor = (1 + math.cos(math.pi * progress)) / 2
            optimizer.param_groups[0]["lr"] = options.rate * factor
            x = augmented(pictures[index]) if options.augment else pictures[index]
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(standardized(x)), labels[index])
            loss.backward()
            optimizer.step()
            step += 1
        print(json.dumps({"epoch": epoch, "loss": loss.item(),
                          "test_accuracy": accuracy(model, *test)}), flush=True)


def logits(options):
    torch.manual_seed(options.seed)
    model = resnet(options.depth, options.stem, options.classes)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("running_var"):
            value.data *= 1 + 0.5 * torch.rand_like(value)
        elif value.dim() == 1:
            value.data += 0.1 * torch.randn_like(value)
    os.makedirs(options.out, exist_ok=True)
    save(os.path.join(options.out, "model.safetensors"), model.state_dict())
    side = 224 if options.stem == "imagenet" else 32
    x = torch.randn(4, 3, side, side)
    file = GoldenFile(os.path.join(options.out, "expected.bin"))
    file.write("x", x)
    with torch.no_grad():
        file.write("logits", model.double().eval()(x.double()))
    file.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "weights", "train", "logits"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--format", default="auto", choices=["auto", *FORMATS])
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--stem", default="cifar", choices=["cifar", "imagenet"])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    parser.add_argument("--data")
    parser.add_argument("--held-out", type=int, default=3200)
    parser.add_argument("--weights")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--augment", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    globals()[options.what](options)


if __name__ == "__main__":
    main()
