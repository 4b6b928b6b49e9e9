"""Gloo's all_reduce through PyTorch: the median time at each size, as one JSON line a size.

Every call starts behind a barrier and takes as long as on its slowest rank, as `peal bench
collectives` measures.
"""
import argparse
import json
import os
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def rank_main(rank, ranks, sizes, store, iterations):
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= ranks:
        os.sched_setaffinity(0, {cores[rank]})
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    for size in sizes:
        x = torch.ones(size // 4)
        count = iterations or max(5, min(500, 2 ** 26 // size))
        seconds = []
        for i in range(count + 3):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(x)
            if i >= 3:
                seconds.append(time.perf_counter() - start)
            if x[0] != ranks or x[-1] != ranks:
                raise SystemExit(f"wrong sum at {size} bytes: {x[0]}, {x[-1]}")
            x.fill_(1)
        slowest = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        if rank == 0:
            print(json.dumps({"bytes": size, "ranks": ranks, "pytorch": torch.__version__,
                              "time_us": 1e6 * statistics.median(slowest.tolist())}), flush=True)
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", required=True, help="bytes")
    parser.add_argument("--iterations", type=int, default=0, help="0: 5 to 500 by size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_main, nprocs=arguments.ranks,
                 args=(arguments.ranks, arguments.sizes, os.path.join(folder, "store"),
                       arguments.iterations))


if __name__ == "__main__":
    main()
