#!/usr/bin/env python3
"""Trains the Fashion-MNIST CNN and small language models on a GPU: the same weights to the bit at any number of ranks, by NCCL
and through host memory, after a stop and on another number of ranks, and where steps are replayed as
CUDA graphs, also of activations that are halves or algorithms by a table; the CPU's loss within rounding.

usage: train.py PEAL DATA      DATA holds the t10k files of Fashion-MNIST and input.txt (tinyshakespeare),
                               which are trained on
"""
import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

STEPS = 60
AT_ONCE = 4  # jobs, which share the GPU
JOB = """
run {{ directory: "{run}" log_every_steps: 1 tensorboard: false }}
data {{
  train {{
    idx {{ images: "{data}/t10k-images-idx3-ubyte.gz" labels: "{data}/t10k-labels-idx1-ubyte.gz" }}
    limit: {limit}
  }}
  test {{
    idx {{ images: "{data}/t10k-images-idx3-ubyte.gz" labels: "{data}/t10k-labels-idx1-ubyte.gz" }}
    limit: 2000
  }}
  preprocess {{ scale {{ factor: 0.0111093 offset: -0.810198 }} }}
}}
model {{ cnn {{ dropout: 0.25 batch_norm: {norm} }} }}
optimizer {{ sgd {{ learning_rate: {rate} momentum: 0.9 nesterov: true weight_decay: 0.0005 }} }}
train {{ epochs: 4 max_steps: {steps} global_batch: 64 clip_norm: {clip} cuda_graphs: {graphs}
         accumulate_steps: {parts} precision: {precision} algorithms: "{algorithms}" }}
parallel {{ virtual_ranks: 4 bucket_size: "128KiB" device: {device} gpu_comm: {comm}
            shard_optimizer: {shard} }}
"""
TEXT_JOB = """
run {{ directory: "{run}" log_every_steps: 1 tensorboard: false }}
data {{ train {{ tokens {{ path: "{data}/input.txt" tokenizer: CHARACTERS stride: 300 length: 100 }} }}
       test {{ tokens {{ path: "{data}/input.txt" tokenizer: CHARACTERS begin: 0.98 length: 100 }} }} }}
model {{ {model} }}
optimizer {{ adamw {{ learning_rate: 0.002 }} }}
train {{ max_steps: {steps} global_batch: 32 clip_norm: 1 cuda_graphs: {graphs} precision: {precision}
         algorithms: "{algorithms}" }}
parallel {{ virtual_ranks: 4 bucket_size: "128KiB" device: {device} gpu_comm: {comm}
            shard_optimizer: {shard} }}
"""
# Halves take flash attention, with heads of 32 columns.
LANGUAGE_MODELS = {
    "GPT": "gpt { vocabulary: 65 context: 100 layers: 3 heads: 4 width: 128 dropout: 0.1 }",
    "LSTM": "rnn { cell: LSTM vocabulary: 65 embedding: 48 steps: 100 hidden: 128 layers: 2 }",
}
USUAL = {"device": "CUDA", "comm": "AUTO", "clip": 0, "shard": "false", "graphs": "false",
         "limit": 10000, "norm": "false", "parts": 1, "rate": 0.05, "precision": "F32",
         "algorithms": ""}
# 1000 records are 15 batches of 64 and 40 records more.
RAGGED = {"limit": 1000, "norm": "true", "parts": 2}


class Failed(Exception):
    pass


class Trials:
    def __init__(self, peal, data, folder):
        self.peal, self.data, self.folder, self.numbers = peal, data, folder, itertools.count()

    def run(self, words, ranks):
        start = [str(self.peal), *words]
        if ranks:  # each rank a host for NCCL, so that it takes ranks that share a GPU
            host = 'NCCL_HOSTID=rank-$OMPI_COMM_WORLD_RANK exec "$@"'
            start = ["mpirun", "--oversubscribe", "-np", str(ranks), "sh", "-c", host, "rank", *start]
        done = subprocess.run(start, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode != 0:
            raise Failed(f"{' '.join(start)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def train(self, ranks, steps=(STEPS,), text=JOB, **job):
        """Starts once for each number of steps, each going on where the last ended; `ranks` of the
        last start."""
        run = self.folder / f"run-{next(self.numbers)}"
        path = run.with_suffix(".textproto")
        for number, end in enumerate(steps):
            path.write_text(text.format(run=run, data=self.data, steps=end, **{**USUAL, **job}))
            self.run(["train", str(path)], ranks if number + 1 == len(steps) else 1)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        accuracy = ([0] + [line["test_accuracy"] for line in lines if "test_accuracy" in line])[-1]
        return self.run(["inspect", "--hash", str(run)], 0).split()[-1], losses, accuracy


def expect_equal(what, got, want):
    print(f"{'ok  ' if got == want else 'FAIL'} {what}: {got}{'' if got == want else f', not {want}'}",
          flush=True)
    return got == want


def hashes_equal(trials, want, jobs):
    """Whether all jobs, {what: options}, end with that hash."""
    good = True
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {what: pool.submit(trials.train, **options) for what, options in jobs.items()}
        for what, run in runs.items():
            try:
                good &= expect_equal(what, run.result()[0], want)
            except (Failed, subprocess.TimeoutExpired) as error:
                print(f"FAIL {what}: {error}", flush=True)
                good = False
    return good


def refuses_a_bad_loss(trials):
    """The host sees it a step late; the exit code and what is told are the CPU's."""
    seen = {}
    for device in ("CPU", "CUDA"):
        try:
            trials.train(1, rate="1e30", device=device)
            seen[device] = "no error"
        except Failed as error:
            seen[device] = str(error)
    return all("exit 4" in text and "weights are as they were before this step" in text
               for text in seen.values()) or expect_equal("a loss that is not finite", seen, "exit 4")


def stored_as(trials, precision):
    """Activations of a half type, in F16 with a loss scale: one hash, and the f32 run's losses."""
    halves = {"precision": precision, "norm": "true"}
    first, _, _ = trials.train(1, **halves)
    # Without batch norm, with which these large steps magnify every rounding.
    _, own, _ = trials.train(1, precision=precision)
    _, whole, _ = trials.train(1)
    good = hashes_equal(trials, first, {
        f"{precision}, {what}": options | halves for what, options in {
            "2 ranks": {"ranks": 2}, "3 ranks, graphs": {"ranks": 3, "graphs": "true"},
            "stopped, then 2 ranks, sharded": {"ranks": 2, "steps": (25, STEPS), "shard": "true"},
        }.items()})
    begin = max(abs(a - b) for a, b in zip(own[:5], whole[:5]))
    end = abs(sum(own[-20:]) - sum(whole[-20:])) / 20
    print(f"     {precision}: first five losses within {begin:.4f} of f32's, the last twenty's mean {end:.4f}")
    return good and begin < 0.05 and end < 0.05 and own != whole


def language_model(trials, name, precision):
    """One hash, and a loss that falls as the CPU's does."""
    job = {"text": TEXT_JOB, "model": LANGUAGE_MODELS[name], "precision": precision}
    first, losses, _ = trials.train(1, **job)
    good = hashes_equal(trials, first, {
        f"{name} in {precision}, {what}": options | job for what, options in {
            "again": {"ranks": 1}, "2 ranks": {"ranks": 2}, "graphs, 1 rank": {"ranks": 1, "graphs": "true"},
            "graphs, 3 ranks, stopped": {"ranks": 3, "steps": (25, STEPS), "graphs": "true"}}.items()})
    if precision != "F16":
        _, there, _ = trials.train(1, **job, device="CPU")
        gap = max(abs(a - b) for a, b in zip(losses, there))
        print(f"     {name} in {precision}: loss {losses[0]:.4f} to {losses[-1]:.4f}, the CPU's within {gap:.4f}")
        good &= gap < (0.002 if precision == "F32" else 0.05)
    return good and losses[-1] < losses[0] - 0.5


def chosen_algorithms(trials):
    """Products and convolutions by a table."""
    gpt = {"text": TEXT_JOB, "model": LANGUAGE_MODELS["GPT"], "precision": "BF16"}
    return (by_tables(trials, "GPT", gpt, products=11, convolutions=0, second_ways=6) &
            by_tables(trials, "CNN", {"precision": "BF16"}, products=6, convolutions=2, second_ways=3))


def by_tables(trials, model, job, products, convolutions, second_ways):
    """There are at least so many. By the measured table, and by one of the second ways, but of products with
    sums. One hash of each, a loss that is the first ways' within rounding; a table of another GPU is refused."""
    table, second = trials.folder / f"{model}-table", trials.folder / f"{model}-second"
    path = trials.folder / f"tune-{model}.textproto"
    text = job.get("text", JOB)
    path.write_text(text.format(run="none", data=trials.data, steps=1, **{**USUAL, **job}))
    said = trials.run(["bench", "algorithms", str(path), "--tune", str(table)], 0)
    print("".join(f"     {line}\n" for line in said.splitlines()), end="", flush=True)
    found = re.findall(r"^\d+/\d+ (.*), \d+ times?: .* of (\d+)\b", said, re.MULTILINE)
    of_convolutions = [line for line, _ in found if line.startswith("pass=")]
    good = len(of_convolutions) >= convolutions and len(found) - len(of_convolutions) >= products
    head = [line for line in table.read_text().splitlines() if re.match("version|made_on", line)]
    # With sums the second way is another kernel, of which there may be none.
    lines = [f"{'convolution' if line.startswith('pass=') else 'product'}: {line} algorithm=1"
             for line, ways in found if int(ways) > 1 and "sums=" not in line]
    second.write_text("\n".join([*head, *lines, "end: algorithms", ""]))
    good &= len(lines) >= second_ways
    _, without, _ = trials.train(1, **job)
    for name, file in (("measured", table), ("second ways", second)):
        named = {**job, "algorithms": file}
        first, losses, _ = trials.train(1, **named)
        good &= hashes_equal(trials, first, {
            f"{model}, {name}, {what}": options | named for what, options in {
                "again": {"ranks": 1}, "3 ranks, graphs": {"ranks": 3, "graphs": "true"},
                "stopped, then 2 ranks": {"ranks": 2, "steps": (25, STEPS)}}.items()})
        gap = max(abs(a - b) for a, b in zip(losses, without))
        print(f"     {model}, {name}: losses within {gap:.4f} of the first ways'")
        good &= gap < 0.05
    table.write_text(second.read_text().replace("made_on: ", "made_on: another "))
    try:
        trials.train(1, **job, algorithms=table)
        return expect_equal("a table of another GPU", "no error", "exit 2")
    except Failed as error:
        return good and ("exit 2" in str(error) and "was made on" in str(error) or
                         expect_equal("a table of another GPU", str(error), "exit 2"))


def main():
    peal, data = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    os.environ.setdefault("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(peal, data, pathlib.Path(folder))
        first, losses, accuracy = trials.train(1)
        print(f"     1 rank: {first}, loss {losses[0]:.6f} to {losses[-1]:.6f}, accuracy {accuracy}")
        graphs = {"graphs": "true"}
        # Running averages, micro-batches, and a last batch that is padded.
        ragged, _, _ = trials.train(1, **RAGGED)
        good &= hashes_equal(trials, first, {
            "again": {"ranks": 1},
            "1 rank, staged": {"ranks": 1, "comm": "STAGED"},
            "2 ranks": {"ranks": 2},
            "3 ranks": {"ranks": 3},
            "4 ranks": {"ranks": 4},
            "2 ranks, NCCL": {"ranks": 2, "comm": "NCCL"},
            "stopped after 25 steps, then 2 ranks": {"ranks": 2, "steps": (25, STEPS)},
            # So large that nothing is cut: the norm is computed and read back.
            "with clipping": {"ranks": 1, "clip": 1e6},
            "sharded, 1 rank": {"ranks": 1, "shard": "true"},
            "sharded, 3 ranks": {"ranks": 3, "shard": "true"},
            "sharded, 2 ranks, NCCL": {"ranks": 2, "comm": "NCCL", "shard": "true"},
            "sharded and clipped, stopped, then 2 ranks":
                {"ranks": 2, "steps": (25, STEPS), "clip": 1e6, "shard": "true"},
            "graphs, 1 rank, NCCL": {"ranks": 1, "comm": "NCCL", **graphs},
            "graphs, 1 rank, staged": {"ranks": 1, "comm": "STAGED", **graphs},
            "graphs, 2 ranks": {"ranks": 2, **graphs},
            "graphs, 3 ranks": {"ranks": 3, **graphs},
            "graphs, 2 ranks, NCCL": {"ranks": 2, "comm": "NCCL", **graphs},
            "graphs, stopped after 25 steps, then 2 ranks": {"ranks": 2, "steps": (25, STEPS), **graphs},
            "graphs, sharded and clipped, 2 ranks": {"ranks": 2, "clip": 1e6, "shard": "true", **graphs},
        })
        good &= hashes_equal(trials, ragged, {
            f"graphs, ragged batches, ranks {ranks}": {"ranks": ranks, **RAGGED, **graphs}
            for ranks in (1, 2, 3)})
        good &= refuses_a_bad_loss(trials)
        good &= chosen_algorithms(trials)
        for precision in ("BF16", "F16"):
            good &= stored_as(trials, precision)
        for precision in ("F32", "BF16", "F16"):
            good &= language_model(trials, "GPT", precision)
        good &= language_model(trials, "LSTM", "F32")
        _, cpu_losses, cpu_accuracy = trials.train(1, device="CPU")
        gap = max(abs(a - b) / b for a, b in zip(losses[:10], cpu_losses[:10]))
        print(f"     the CPU's first ten losses within {gap:.2e}, accuracy {cpu_accuracy}")
        good &= gap < 1e-4 and abs(accuracy - cpu_accuracy) < 0.02
    print("passed: training on a GPU" if good else "failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
