#!/usr/bin/env bash
# What the values of one of a job's settings cost and save, such as train.precision F32 and BF16: memory
# for activations, samples/s and the processor's time for a step, on one core, in turns, medians. On a
# machine that does other things at the same time, take the processor's time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOT'
usage: tests/bench/setting.sh --job FILE --setting PATH --values "ONE OTHER..." [--rounds N] [--steps N]
       [--peal FILE] [--set PATH=VALUE]...
  tests/bench/setting.sh --job examples/tinyshakespeare_gpt.textproto --setting train.precision --values "F32 BF16"
  tests/bench/setting.sh --job examples/cifar10_resnet18.textproto --setting train.recompute --values "NONE BLOCKS"
EOT
}

rounds=5
steps=10
take_arguments "job setting values rounds steps peal set" "$@"
no_operands
[[ -r ${job:-} ]] || refuse "no job at '${job:-}'; --job names one"
[[ -n ${setting:-} ]] || refuse "--setting is missing"
read -ra each <<< "${values:-}"
[[ ${#each[@]} -ge 2 ]] || refuse "--values wants two or more, got '${values:-}'"
need_program "$peal"

make_work
export OMP_NUM_THREADS=1

# measure VALUE WARMUP STEPS: what the bench says, behind the seconds of processor it took.
measure() {
  local TIMEFORMAT=%U
  { time taskset -c 0 "$peal" bench train "$job" --json --warmup "$2" --steps "$3" \
    "${settings[@]}" --set parallel.threads=1 --set "$setting=$1" > "$work/said"; } \
    2> "$work/time" || { cat "$work/time" >&2; exit 1; }
  echo "$(tail -n1 "$work/time") $(tail -n1 "$work/said")"
}

for ((round = 1; round <= rounds; ++round)); do
  for value in "${each[@]}"; do
    measure "$value" 0 1 >> "$work/$value.start"
    measure "$value" 1 "$steps" >> "$work/$value.steps"
  done
done
python3 - "$work" "$steps" "${each[@]}" << 'EOF2'
import json, statistics, sys
from pathlib import Path

work, steps, values = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
first = None
for value in values:
    start = [float(line.split()[0]) for line in (work / f"{value}.start").open()]
    seconds, lines = zip(*(line.split(maxsplit=1) for line in (work / f"{value}.steps").open()))
    lines = [json.loads(line) for line in lines]
    busy = statistics.median((float(all) - one) / steps for all, one in zip(seconds, start))
    speed = statistics.median(line["samples_per_second"] for line in lines)
    size, planned = (lines[0][name] / 2**20 for name in ("activation_bytes", "planned_bytes"))
    print(f"{value:6}: activations {size:.1f} MiB of {planned:.1f} MiB in all, {speed:.2f} samples/s, "
          f"{busy:.3f} s of processor a step")
    first = first or (size, speed, busy)
    if value != values[0]:
        print(f"        activations / {first[0] / size:.2f}, time of a step * {first[1] / speed:.3f}, "
              f"processor * {busy / first[2]:.3f}")
EOF2
