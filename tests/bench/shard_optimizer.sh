#!/usr/bin/env bash
# What parallel.shard_optimizer costs and saves: samples/s, memory as planned and as used by rank 0,
# without and with, in turns, medians. Leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOT'
usage: tests/bench/shard_optimizer.sh [--job FILE] [--rounds N] [--steps N] [--ranks N] [--peal FILE]
                                      [--set PATH=VALUE]...
EOT
}

job=tests/bench/wide_mlp.textproto
rounds=5
steps=40
ranks=2
take_arguments "job rounds steps ranks peal set" "$@"
no_operands
need_program "$peal"

make_work
settle_mpi
for ((round = 1; round <= rounds; ++round)); do
  for sharded in false true; do
    mpirun -np "$ranks" --oversubscribe "$peal" bench train "$job" --json --steps "$steps" \
      --set parallel.virtual_ranks="$ranks" "${settings[@]}" \
      --set parallel.shard_optimizer="$sharded" | tail -n1 >> "$work/$sharded"
  done
done
python3 - "$work/false" "$work/true" << 'EOF'
import json, statistics, sys

MIB = 1 << 20
print(f"{'sharded':>8} {'samples/s':>10} {'ms a step':>10} {'% comm':>7} {'% optimizer':>12} "
      f"{'planned MiB':>12} {'used MiB':>9}")
for path in sys.argv[1:]:
    lines = [json.loads(line) for line in open(path)]
    middle = {key: statistics.median(line[key] for line in lines)
              for key in ("samples_per_second", "median_ms_per_step", "percent_comm",
                          "percent_optimizer", "planned_bytes", "peak_rss_bytes")}
    print(f"{path.rpartition('/')[2]:>8} {middle['samples_per_second']:10.0f} "
          f"{middle['median_ms_per_step']:10.2f} {middle['percent_comm']:7.1f} "
          f"{middle['percent_optimizer']:12.1f} {middle['planned_bytes'] / MIB:12.1f} "
          f"{middle['peak_rss_bytes'] / MIB:9.1f}")
EOF
