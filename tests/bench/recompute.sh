#!/usr/bin/env bash
# What train.recompute saves and costs: a job's memory for activations, its samples/s and the
# processor's time for a step, with NONE and with BLOCKS, on one core, in turns, medians. On a machine
# that does other things at the same time, take the processor's time.
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

# measure WHAT WARMUP STEPS: what the bench says, behind the seconds of processor it took.
measure() {
  local TIMEFORMAT=%U
  { time taskset -c 0 "$peal" bench train "$job" --json --warmup "$2" --steps "$3" \
    "${settings[@]}" --set parallel.threads=1 --set train.recompute="$1" > "$work/said"; } \
    2> "$work/time" || { cat "$work/time" >&2; exit 1; }
  echo "$(tail -n1 "$work/time") $(tail -n1 "$work/said")"
}

for ((round = 1; round <= rounds; ++round)); do
  for what in NONE BLOCKS; do
    measure "$what" 0 1 >> "$work/$what.start"
    measure "$what" 1 "$steps" >> "$work/$what.steps"
  done
done
python3 - "$work" "$steps" << 'EOF2'
import json, statistics, sys
from pathlib import Path

work, steps = Path(sys.argv[1]), int(sys.argv[2])
found = {}
for what in "NONE", "BLOCKS":
    start = [float(line.split()[0]) for line in (work / f"{what}.start").open()]
    seconds, lines = zip(*(line.split(maxsplit=1) for line in (work / f"{what}.steps").open()))
    lines = [json.loads(line) for line in lines]
    busy = statistics.median((float(all) - one) / steps for all, one in zip(seconds, start))
    speed = statistics.median(line["samples_per_second"] for line in lines)
    size, planned = (lines[0][name] / 2**20 for name in ("activation_bytes", "planned_bytes"))
    found[what] = size, speed, busy
    print(f"{what:6}: activations {size:.1f} MiB of {planned:.1f} MiB in all, {speed:.2f} samples/s, "
          f"{busy:.3f} s of processor a step")
(size, speed, busy), (less, slower, busier) = found["NONE"], found["BLOCKS"]
print(f"activations / {size / less:.2f}, time of a step * {speed / slower:.3f}, "
      f"processor * {busier / busy:.3f}")
EOF2
