#!/usr/bin/env bash
# What compression of gradients gains on a slow network and costs in accuracy: samples/s of two
# ranks on two hosts whose links are held to a rate, all methods in turns, and test accuracy of whole
# runs (on this machine alone: their bits do not depend on where ranks are). As root; leave the
# machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOT'
usage: tests/bench/compression.sh [--rate RATE] [--rounds N] [--steps N] [--epochs N] [--job FILE]
                                  [--peal FILE] [--methods LIST] [--set PATH=VALUE]...
  --rate RATE       of every link (default 1gbit)
  --rounds N        measurements of each method (default 3); 0: no speed
  --steps N         steps of one measurement (default 30)
  --epochs N        length of the runs that are tested (default 4); 0: no accuracy
  --job FILE        what is trained (default tests/bench/wide_mlp.textproto)
  --peal FILE       the program (default build/peal)
  --methods LIST    beside "none" (default "bf16 f16 int8 power_sgd")
  --set PATH=VALUE  changes the job, for all methods alike
EOT
}

rate=1gbit
rounds=3
steps=30
epochs=4
job=tests/bench/wide_mlp.textproto
methods="bf16 f16 int8 power_sgd"
take_arguments "rate rounds steps epochs job peal methods set" "$@"
no_operands
need_program "$peal"

read -ra others <<< "$methods"
all=(none "${others[@]}")
# What --set makes of a method.
of_method() {
  case "$1" in
    none) ;;
    power_sgd) printf '%s\n' --set parallel.compression.power_sgd.rank=4 ;;
    int8) printf '%s\n' --set parallel.compression.int8={} --set parallel.reduction=REPEATABLE ;;
    *) printf '%s\n' --set "parallel.compression.$1={}" ;;
  esac
}

work=$(mktemp -d)
export PEAL_TESTBED=${PEAL_TESTBED:-/run/peal-compression}
bed=
cleanup() {
  [[ -z $bed ]] || cluster/testbed.sh down
  rm -rf "$work"
}
trap cleanup EXIT

if [[ $rounds -gt 0 ]]; then
  cluster/testbed.sh up 2 --rate "$rate" >&2
  bed=up
fi
for ((round = 1; round <= rounds; ++round)); do
  for method in "${all[@]}"; do
    echo "round $round of $rounds: $method" >&2
    mapfile -t choice < <(of_method "$method")
    cluster/testbed.sh mpirun 1 "$peal" bench train "$job" --json --steps "$steps" --warmup 3 \
      "${settings[@]}" "${choice[@]}" | tail -n1 >> "$work/$method.jsonl"
  done
done
if [[ $epochs -gt 0 ]]; then
  for method in "${all[@]}"; do
    echo "$epochs epochs: $method" >&2
    mapfile -t choice < <(of_method "$method")
    "$peal" train "$job" --local 2 --set "train.epochs=$epochs" --set "run.directory=$work/$method" \
      --set checkpoint.every_steps=1000000 "${settings[@]}" "${choice[@]}" > "$work/out"
  done
fi

python3 - "$work" "$rate" "${all[@]}" << 'EOT'
import json, statistics, sys
from pathlib import Path

work, rate, methods = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]


def speed(method):
    file = work / f"{method}.jsonl"
    if not file.exists():
        return None
    return statistics.median(json.loads(line)["samples_per_second"] for line in file.open())


def accuracy(method):
    file = work / method / "metrics.jsonl"
    if not file.exists():
        return None
    lines = [json.loads(line) for line in file.open()]
    return [line["test_accuracy"] for line in lines if "test_accuracy" in line][-1]


print(f"two hosts, links of {rate}, medians")
print(f"{'':>10} {'samples/s':>10} {'ratio':>6} {'accuracy':>9} {'points':>7}")
for method in methods:
    row = [f"{method:>10}"]
    value, base = speed(method), speed("none")
    row += ["-" if value is None else f"{value:10.0f} {value / base:6.2f}"]
    value, base = accuracy(method), accuracy("none")
    row += ["-" if value is None else f"{value:9.4f} {100 * (value - base):+7.2f}"]
    print(" ".join(row))
EOT
