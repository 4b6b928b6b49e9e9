#!/usr/bin/env bash
# All-reduce of Peal beside Gloo's through PyTorch, f32 in place, taken in turns on the same cores.
# Prints medians of the rounds. PEAL_PYTHON names a python3 with PyTorch; leave the machine alone
# while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'END'
usage: [PEAL_PYTHON=python3] tests/bench/collectives_against_gloo.sh [--rounds N] [--ranks N]
         [--peal FILE]
  --rounds N   measurements of each (default 3)
  --ranks N    (default 2)
  --peal FILE  the program (default build/peal)
END
}

rounds=3
ranks=2
take_arguments "rounds ranks peal" "$@"
no_operands

need_pytorch
need_program "$peal"

make_work
settle_mpi
binding=(--bind-to core)
[[ $ranks -le $(nproc) ]] || binding=(--oversubscribe)

for ((round = 1; round <= rounds; ++round)); do
  echo "round $round of $rounds" >&2
  mpirun -np "$ranks" "${binding[@]}" "$peal" bench collectives --min 64KiB --max 64MiB \
    --factor 4 --json > "$work/out"
  cat "$work/out" >> "$work/peal.jsonl"
  "$python" tests/bench/gloo_peer.py --ranks "$ranks" \
    --sizes 65536 262144 1048576 4194304 16777216 67108864 >> "$work/gloo.jsonl"
done

python3 - "$work" << 'EOF_PYTHON'
import collections, json, statistics, sys
from pathlib import Path

work = Path(sys.argv[1])
ours, theirs = collections.defaultdict(list), collections.defaultdict(list)
for line in map(json.loads, (work / "peal.jsonl").open()):
    if line["in_place"]:
        ours[line["bytes"]].append(line["time_us"])
for line in map(json.loads, (work / "gloo.jsonl").open()):
    theirs[line["bytes"]].append(line["time_us"])
    version, ranks = line["pytorch"], line["ranks"]
print(f"all_reduce, f32, in place, {ranks} ranks; medians; Gloo of PyTorch {version}")
print(f"{'bytes':>10} {'Peal us':>10} {'Gloo us':>10} {'ratio':>7}")
for size in sorted(ours):
    peal, gloo = statistics.median(ours[size]), statistics.median(theirs[size])
    print(f"{size:>10} {peal:>10.1f} {gloo:>10.1f} {gloo / peal:>7.1f}")
EOF_PYTHON
