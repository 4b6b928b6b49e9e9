#!/usr/bin/env python3
"""Trains a small job and reads its event files with the real TensorBoard: every number in
metrics.jsonl must be there, at its step and under its name, and nothing else.

usage: tensorboard_test.py PEAL           trains in a temporary folder with this program
       tensorboard_test.py --run FOLDER   checks a run directory that is there
"""

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as error:
    sys.exit(f"{sys.executable} has no TensorBoard ({error}); "
             "tests/run.sh installs it into build/venv")

REQUIRED = {"loss", "accuracy", "learning_rate", "samples_per_second", "gradient_norm",
            "test_loss", "test_accuracy"}
FLOAT32 = 1e-6  # event files hold 32-bit floats

JOB = """
run { directory: "%(folder)s/run" log_every_steps: 4 histograms_every_steps: 8 }
data {
  train { csv { path: "%(folder)s/train.csv" } }
  test { csv { path: "%(folder)s/test.csv" } }
}
model { mlp { inputs: 8 hidden: 16 outputs: 1 loss: BINARY } }
optimizer { adam { learning_rate: 0.01 } }
schedule { cosine {} }
train { epochs: 3 global_batch: 16 clip_norm: 1 }
parallel { virtual_ranks: 2 }
"""


def write_csv(path, records, generator):
    lines = [",".join([f"x{i}" for i in range(8)] + ["label"])]
    for _ in range(records):
        record = [generator.uniform(-1, 1) for _ in range(8)]
        lines.append(",".join([f"{x:.5f}" for x in record] + [str(int(sum(record) > 0))]))
    path.write_text("\n".join(lines) + "\n")


def train(program, folder):
    """A run directory, freshly trained."""
    generator = random.Random(1)
    write_csv(folder / "train.csv", 250, generator)
    write_csv(folder / "test.csv", 60, generator)
    job = folder / "job.textproto"
    job.write_text(JOB % {"folder": folder})
    done = subprocess.run([program, "train", str(job)], capture_output=True, text=True,
                          timeout=240, check=False)
    if done.returncode != 0:
        sys.exit(f"peal train ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return folder / "run"


def logged_scalars(run):
    """{(tag, step): value} of metrics.jsonl."""
    scalars = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for tag, value in entry.items():
            if tag not in ("step", "epoch") and isinstance(value, (int, float)):
                scalars[tag, entry["step"]] = value
    return scalars


def check(run):
    """What is wrong with the event files of a run directory, one line each."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    logged = logged_scalars(run)

    for tag in sorted(REQUIRED - {tag for tag, _ in logged}):
        yield f"metrics.jsonl has no {tag}"
    seen = set()
    for tag in tags["scalars"]:
        for event in events.Scalars(tag):
            key = (tag, event.step)
            if tag == "epoch":
                continue
            if key in seen:
                yield f"{tag} at step {event.step} is there twice"
            seen.add(key)
            if key not in logged:
                yield f"{tag} at step {event.step} is in the event files only"
            elif not math.isclose(event.value, logged[key], rel_tol=FLOAT32, abs_tol=1e-12):
                yield f"{tag} at step {event.step}: {event.value} instead of {logged[key]}"
            if abs(event.wall_time - time.time()) > 86400 * 365:
                yield f"{tag} at step {event.step}: wall time {event.wall_time}"
    for tag, step in sorted(set(logged) - seen):
        yield f"{tag} at step {step} is in metrics.jsonl only"


def check_histograms(run):
    """Asked for every 8 steps: there, finite, and with as many values as counts."""
    events = EventAccumulator(str(run), size_guidance={"histograms": 0})
    events.Reload()
    tags = events.Tags()["histograms"]
    if not tags:
        yield "no histograms, but the job asks for them"
    for tag in tags:
        for event in events.Histograms(tag):
            value = event.histogram_value
            where = f"histogram {tag} at step {event.step}"
            if not value.num > 0 or sum(value.bucket) != value.num:
                yield f"{where}: {sum(value.bucket)} values in buckets, {value.num} in all"
            if not value.min <= value.sum / max(value.num, 1) <= value.max:
                yield f"{where}: mean outside of [{value.min}, {value.max}]"
            if list(value.bucket_limit) != sorted(value.bucket_limit):
                yield f"{where}: bucket limits out of order"


def report(problems, run):
    for problem in problems:
        print(problem)
    print(f"{len(logged_scalars(run))} numbers of metrics.jsonl compared, {len(problems)} problems")
    return 1 if problems else 0


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--run":
        run = Path(sys.argv[2])
        return report(list(check(run)), run)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="peal_tensorboard_") as folder:
        run = train(sys.argv[1], Path(folder))
        return report(list(check(run)) + list(check_histograms(run)), run)


if __name__ == "__main__":
    sys.exit(main())
