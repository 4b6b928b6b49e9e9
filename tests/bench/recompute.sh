#!/usr/bin/env bash
# What train.recompute saves and costs: a job's memory for activations and its samples/s with NONE and
# with BLOCKS, on one core, in turns, medians. Leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOT'
usage: tests/bench/recompute.sh --job FILE [--rounds N] [--steps N] [--peal FILE] [--set PATH=VALUE]...
EOT
}

rounds=5
steps=10
take_arguments "job rounds steps peal set" "$@"
no_operands
[[ -r ${job:-} ]] || refuse "no job at '${job:-}'; --job names one"
need_program "$peal"

make_work
export OMP_NUM_THREADS=1
for ((round = 1; round <= rounds; ++round)); do
  for what in NONE BLOCKS; do
    taskset -c 0 "$peal" bench train "$job" --json --warmup 2 --steps "$steps" "${settings[@]}" \
      --set parallel.threads=1 --set train.recompute="$what" | tail -n1 >> "$work/$what.jsonl"
  done
done
python3 - "$work" << 'EOF2'
import json, statistics, sys
from pathlib import Path

found = {}
for what in "NONE", "BLOCKS":
    lines = [json.loads(line) for line in (Path(sys.argv[1]) / f"{what}.jsonl").open()]
    speed = statistics.median(line["samples_per_second"] for line in lines)
    found[what] = lines[0]["activation_bytes"] / 2**20, lines[0]["planned_bytes"] / 2**20, speed
    print(f"{what:6}: activations {found[what][0]:.1f} MiB of {found[what][1]:.1f} MiB in all, "
          f"{speed:.2f} samples/s")
none, blocks = found["NONE"], found["BLOCKS"]
print(f"activations / {none[0] / blocks[0]:.2f}, time of a step * {none[2] / blocks[2]:.3f}")
EOF2
