#!/usr/bin/env python3
"""The peer of `peal bench train`: the same CNN and optimizer under PyTorch DDP with Gloo, one
thread a rank, float32, data from memory. Prints one JSON object.

usage: ddp_peer.py --ranks 2 --global-batch 512 [--steps 60] [--warmup 10] [--format auto] ...

PyTorch gets its best chance: flush-to-zero, gradients as bucket views, no logging and no .item()
in the loop, and, unless named, the memory format and the kind of Adam (fused, foreach, plain) that
a short trial on this machine finds fastest.
"""

import argparse
import json
import os
import sys
import tempfile
import time

STARTED = float(os.environ.setdefault("PEAL_PEER_STARTED", repr(time.time())))

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

try:
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
except ImportError as error:
    sys.exit(f"{sys.executable} has no PyTorch ({error}); name one that has: "
             "PEAL_PYTHON=/path/to/python")

RECORDS = 60000  # as many as Fashion-MNIST has
FORMATS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}
ADAMS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def reference_cnn():
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(32 * 13 * 13, 128), nn.ReLU(), nn.Dropout(0.5),
                         nn.Linear(128, 10))


def batches(images, labels, rank, ranks, batch):
    """This rank's part of every global batch, for ever: a new order each epoch."""
    epoch = 0
    while True:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        mine = order[rank::ranks]
        for start in range(0, len(mine) - batch + 1, batch):
            index = mine[start:start + batch]
            pictures = images[index].float().mul_(1 / 255)
            yield pictures, labels[index]
        epoch += 1


def make_step(model, memory_format, adam):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, **ADAMS[adam])
    loss_of = nn.CrossEntropyLoss()

    def step(pictures, labels):
        optimizer.zero_grad(set_to_none=True)
        pictures = pictures.to(memory_format=FORMATS[memory_format])
        loss_of(model(pictures), labels).backward()
        optimizer.step()

    return step


def fastest_choice(options, images, labels, batch):
    """(memory format, Adam): the quickest of each asked for, by the best of a few steps alone."""
    formats = list(FORMATS) if options.format == "auto" else [options.format]
    adams = list(ADAMS) if options.adam == "auto" else [options.adam]
    if len(formats) * len(adams) == 1:
        return formats[0], adams[0]
    data = batches(images, labels, 0, 1, batch)
    times = {}
    for memory_format in formats:
        for adam in adams:
            model = reference_cnn().to(memory_format=FORMATS[memory_format])
            step = make_step(model, memory_format, adam)
            measured = []
            for _ in range(options.trial_steps):
                pictures, targets = next(data)
                begin = time.perf_counter()
                step(pictures, targets)
                measured.append(time.perf_counter() - begin)
            times[memory_format, adam] = min(measured)
    return min(times, key=times.get)


def peak_rss_bytes():
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def pin_to_core(rank):
    """One core a rank, as mpirun --bind-to core does; a mask set outside (taskset) is kept to."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})


def work(rank, options, results):
    pin_to_core(rank)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(1 + rank)
    dist.init_process_group("gloo", init_method=f"file://{options.rendezvous}", rank=rank,
                            world_size=options.ranks)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (RECORDS, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (RECORDS,), generator=generator)
    batch = options.global_batch // options.ranks

    model = reference_cnn().to(memory_format=FORMATS[options.format])
    model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    step = make_step(model, options.format, options.adam)
    data = batches(images, labels, rank, options.ranks, batch)

    step(*next(data))
    first_step_seconds = time.time() - STARTED
    for _ in range(options.warmup):
        step(*next(data))
    dist.barrier()
    begin = time.perf_counter()
    for _ in range(options.steps):
        step(*next(data))
    dist.barrier()
    seconds = time.perf_counter() - begin
    results[rank] = {"seconds": seconds, "peak_rss_bytes": peak_rss_bytes(),
                     "first_step_seconds": first_step_seconds}
    dist.destroy_process_group()


def choose_worker(options, result):
    """Runs in a process of its own, so that no rank's peak memory holds the trial."""
    pin_to_core(0)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    images = torch.randint(0, 256, (4096, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(0, 10, (4096,))
    result["choice"] = fastest_choice(options, images, labels,
                                      min(4096, options.global_batch // options.ranks))


def choose(options):
    if "auto" not in (options.format, options.adam):
        return 0.0
    begin = time.time()
    with mp.Manager() as manager:
        result = manager.dict()
        process = mp.get_context("spawn").Process(target=choose_worker, args=(options, result))
        process.start()
        process.join()
        if process.exitcode != 0:
            sys.exit("the trial of memory formats and optimizers failed")
        options.format, options.adam = result["choice"]
    return time.time() - begin


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--global-batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60, help="measured steps")
    parser.add_argument("--warmup", type=int, default=10, help="steps before them")
    parser.add_argument("--trial-steps", type=int, default=8, help="steps of a trial of a choice")
    parser.add_argument("--format", choices=["auto", *FORMATS], default="auto")
    parser.add_argument("--adam", choices=["auto", *ADAMS], default="auto")
    options = parser.parse_args()
    if options.ranks < 1 or options.global_batch < 1 or options.global_batch % options.ranks:
        parser.error("--global-batch must be a positive multiple of --ranks")
    if options.steps < 1:
        parser.error("--steps must be positive")
    return options


def main():
    options = parse_arguments()
    trial_seconds = choose(options)
    with mp.Manager() as manager, tempfile.TemporaryDirectory(prefix="peal_peer_") as folder:
        results = manager.dict()
        options.rendezvous = os.path.join(folder, "rendezvous")
        mp.spawn(work, args=(options, results), nprocs=options.ranks)
        ranks = dict(results)
    seconds = max(result["seconds"] for result in ranks.values())
    print(json.dumps({
        "samples_per_second": options.steps * options.global_batch / seconds,
        "ms_per_step": 1000 * seconds / options.steps,
        "ranks": options.ranks,
        "global_batch": options.global_batch,
        "peak_rss_bytes": max(result["peak_rss_bytes"] for result in ranks.values()),
        "time_to_first_step_seconds":
            max(result["first_step_seconds"] for result in ranks.values()) - trial_seconds,
        "memory_format": options.format,
        "adam": options.adam,
        "pytorch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
