#!/usr/bin/env python3
"""Training of GPT-2 124M and ResNet-50 in bf16 on a GPU: `peal bench train` beside PyTorch, in turns.

usage: torch_training.py PEAL DATA [--only gpt2|resnet50] [--rounds 3] [--steps 40] [--set path=value]
       torch_training.py --warm-up [--only gpt2|resnet50]     fills PyTorch's cache of compiled code
  --kernel-times LIBRARY   of Peal's steps also which kernels took how long (kernel_times.cpp)
  --fast                   also Peal with reduction FAST, which has engines that are not deterministic
  --tune                   Peal with a table of algorithms that are measured before (bench algorithms)
DATA holds input.txt (tinyshakespeare) and GPT-2's encoder.json and vocab.bpe

PyTorch gets its best chance: torch.compile, bf16 by autocast over f32 weights, flash attention, a
vocabulary filled up to 50304, channels-last and CUDA graphs for ResNet-50, fused optimizers, random
data that lies on the GPU from the start, and nothing read back in its loop. Peal reads records,
prepares them on the host and copies them; its pictures are random bytes.
The share of the peak counts 6N + 6LCT operations a token of GPT-2 (weights N, layers L, width C,
context T; PaLM, Chowdhery et al. 2022, appendix B, attention counted once as it is causal)."""
import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")]
from gpt2 import Gpt2  # noqa: E402
from resnet import resnet  # noqa: E402

CONTEXT, LAYERS, WIDTH = 1024, 12, 768
GPT2_WEIGHTS = 124_439_808
PEAK = 989e12  # dense bf16 of an H100 or H200, SXM
PICTURES = 1024

GPT2_JOB = """
data {{ train {{ tokens {{ path: "{data}/input.txt" tokenizer: GPT2 encoder: "{data}/encoder.json"
                           merges: "{data}/vocab.bpe" stride: 256 }} }} }}
model {{ gpt {{ dropout: 0 }} }}
optimizer {{ adamw {{ learning_rate: 0.0003 beta2: 0.95 weight_decay: 0.1 }} }}
train {{ global_batch: {batch} precision: BF16 }}
parallel {{ virtual_ranks: 1 device: CUDA bucket_size: "64MiB" }}
"""
RESNET_JOB = """
data {{
  train {{ idx {{ images: "{folder}/pictures" labels: "{folder}/labels" }} }}
  preprocess {{ scale {{ factor: 0.0174 offset: -2.1 }} }}
  loader_threads: 12 prefetch_batches: 14
}}
model {{ resnet {{ depth: 50 }} }}
optimizer {{ sgd {{ learning_rate: 0.05 momentum: 0.9 weight_decay: 0.0001 }} }}
train {{ global_batch: {batch} precision: BF16 }}
parallel {{ virtual_ranks: 1 device: CUDA bucket_size: "64MiB" }}
"""


class Gpt2Peer:
    def __init__(self, batch):
        self.model = torch.compile(Gpt2(50304, CONTEXT, LAYERS, 12, WIDTH).cuda())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, betas=(0.9, 0.95),
                                           weight_decay=0.1, fused=True)
        self.tokens = torch.randint(0, 50257, (16, batch, CONTEXT + 1), device="cuda")

    def loss(self, step):
        tokens = self.tokens[step % len(self.tokens)]
        logits = self.model(tokens[:, :-1])
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))


class ResNetPeer:
    def __init__(self, batch):
        model = resnet(50, "imagenet", 1000).cuda().to(memory_format=torch.channels_last)
        self.model = torch.compile(model, mode="reduce-overhead")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9,
                                         weight_decay=1e-4, fused=True)
        self.pictures = [torch.randn(batch, 3, 224, 224, device="cuda").to(
            memory_format=torch.channels_last) for _ in range(4)]
        self.labels = torch.randint(0, 1000, (4, batch), device="cuda")

    def loss(self, step):
        turn = step % 4
        return F.cross_entropy(self.model(self.pictures[turn]), self.labels[turn])


class Peer:
    """Compiled once; each measurement goes on with the training."""

    def __init__(self, make, batch):
        torch.manual_seed(1)
        self.batch, self.peer, self.done = batch, make(batch), 0
        self.run(12)

    def run(self, count):
        for _ in range(count):
            self.peer.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = self.peer.loss(self.done)
            loss.backward()
            self.peer.optimizer.step()
            self.done += 1
        torch.cuda.synchronize()

    def samples_per_second(self, steps):
        begin = time.perf_counter()
        self.run(steps)
        return steps * self.batch / (time.perf_counter() - begin)


def write_pictures(folder):
    shape = (PICTURES, 3, 224, 224)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    (folder / "pictures").write_bytes(struct.pack(">4B4I", 0, 0, 8, 4, *shape) + pixels.numpy().tobytes())
    labels = bytes(i % 251 for i in range(PICTURES))
    (folder / "labels").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, PICTURES) + labels)


def run_peal(words, settings, **environment):
    """What it prints."""
    for setting in settings:
        words += ["--set", setting]
    done = subprocess.run(words, capture_output=True, text=True, timeout=150, check=False,
                          env=os.environ | environment)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def bench(peal, job, steps, settings, **environment):
    words = [peal, "bench", "train", job, "--steps", str(steps), "--warmup", "12", "--json"]
    return json.loads(run_peal(words, settings, **environment).splitlines()[-1])


def tuned(peal, job, settings):
    """The settings, and one that names a table of the job's algorithms, measured now."""
    table = str(pathlib.Path(job).with_name("algorithms"))
    print(run_peal([peal, "bench", "algorithms", job, "--tune", table], settings), flush=True)
    return [*settings, f"train.algorithms={table}"]


def compare(options, name, make, batch, job):
    peer = Peer(make, batch)
    if options.warm_up:
        return
    ours, theirs, fast = [], [], []
    settings = tuned(options.peal, job, options.set) if options.tune else options.set
    for _ in range(options.rounds):
        last = bench(options.peal, job, options.steps, settings)
        ours.append(last["samples_per_second"])
        theirs.append(peer.samples_per_second(options.steps))
        if options.fast:
            free = bench(options.peal, job, options.steps, [*settings, "parallel.reduction=FAST"])
            fast.append(free["samples_per_second"])
    peal, torch_ = statistics.median(ours), statistics.median(theirs)
    print(f"{name}, batch {batch}, bf16: Peal {peal:.1f} samples/s, PyTorch {torch_:.1f}, "
          f"ratio {peal / torch_:.3f}")
    if name == "GPT-2 124M":
        flops = CONTEXT * (6 * GPT2_WEIGHTS + 6 * LAYERS * WIDTH * CONTEXT)
        print(f"  tokens/s: {peal * CONTEXT:.0f} and {torch_ * CONTEXT:.0f}; of the peak of bf16: "
              f"{100 * peal * flops / PEAK:.1f}% and {100 * torch_ * flops / PEAK:.1f}%")
    print(f"  Peal's step: {last['ms_per_step']:.2f} ms, activations "
          f"{last['activation_bytes'] / 2**30:.2f} GiB; host time: "
          + ", ".join(f"{key[8:]} {value:.0f}%" for key, value in last.items()
                      if key.startswith("percent_")), flush=True)
    if fast:
        free = statistics.median(fast)
        print(f"  with FAST: {free:.1f} samples/s; RANK_INVARIANT takes {free / peal:.3f} times as long",
              flush=True)
    if options.kernel_times:
        table = pathlib.Path(job).with_name("times.txt")
        bench(options.peal, job, 12, settings, KERNEL_TIMES=str(table),
              CUDA_INJECTION64_PATH=os.path.abspath(options.kernel_times))
        print(table.read_text(), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("peal", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--only", choices=["gpt2", "resnet50"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--gpt2-batch", type=int, default=32)
    parser.add_argument("--resnet-batch", type=int, default=256)
    parser.add_argument("--warm-up", action="store_true")
    parser.add_argument("--kernel-times", help="libkernel_times.so")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="for Peal, path=value")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("did not run: PyTorch sees no GPU")
        sys.exit(77)
    if options.data is None and not options.warm_up:
        parser.error("PEAL and DATA are needed")
    torch.set_float32_matmul_precision("high")
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        job = folder / "job.textproto"
        if options.only != "resnet50":
            job.write_text(GPT2_JOB.format(data=options.data, batch=options.gpt2_batch))
            compare(options, "GPT-2 124M", Gpt2Peer, options.gpt2_batch, str(job))
        if options.only != "gpt2":
            torch._dynamo.reset()
            torch.cuda.empty_cache()
            write_pictures(folder)
            job.write_text(RESNET_JOB.format(folder=folder, batch=options.resnet_batch))
            compare(options, "ResNet-50", ResNetPeer, options.resnet_batch, str(job))


if __name__ == "__main__":
    main()
