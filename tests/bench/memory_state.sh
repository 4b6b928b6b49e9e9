#!/usr/bin/env bash
# What it costs to keep the newest state in the memory of a host: samples/s with and without, in
# turns, medians; and what the run itself says of it. Leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOT'
usage: tests/bench/memory_state.sh [--job FILE] [--rounds N] [--steps N] [--ranks N] [--peal FILE]
                                   [--set PATH=VALUE]...
EOT
}

job=examples/fashion_mnist_cnn.textproto
rounds=3
steps=400
ranks=2
take_arguments "job rounds steps ranks peal set" "$@"
no_operands
need_program "$peal"

make_work
for ((round = 1; round <= rounds; ++round)); do
  for every in -1 0; do
    "$peal" launch -n "$ranks" --elastic "$ranks:$ranks" "$job" --fresh \
      --set run.directory="$work/run" --set train.max_steps="$steps" \
      --set run.log_every_steps=20 --set run.tensorboard=false --set eval.every_epochs=0 \
      --set checkpoint.every_steps=1000000 --set checkpoint.memory_every_steps="$every" \
      "${settings[@]}" > "$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
    grep 'newest state in memory' "$work/said" || true
    # Without the first lines, in which a run warms up.
    grep -o '"samples_per_second":[0-9.]*' "$work/run/metrics.jsonl" | cut -d: -f2 |
      tail -n +4 >> "$work/speed$every"
  done
done
median() { sort -g "$1" | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }
off=$(median "$work/speed-1")
on=$(median "$work/speed0")
awk -v off="$off" -v on="$on" 'BEGIN {
  printf "samples/s without %.0f, with %.0f: %.2f%% less\n", off, on, 100 * (1 - on / off) }'
