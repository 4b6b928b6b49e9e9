#!/usr/bin/env bash
# What it costs to keep the newest state in the memory of a host: samples/s with and without, in
# turns, medians; and what the run itself says of it. Leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

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
peal=build/peal
settings=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --job | --rounds | --steps | --ranks | --peal)
      [[ $# -ge 2 ]] || { usage >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    --set)
      [[ $# -ge 2 ]] || { usage >&2; exit 2; }
      settings+=(--set "$2")
      shift 2
      ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; echo "memory_state.sh: unknown argument '$1'" >&2; exit 2 ;;
  esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
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
