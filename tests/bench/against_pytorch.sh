#!/usr/bin/env bash
# Training speed and memory of Peal beside PyTorch DDP with Gloo: the same CNN, Adam and batch, one
# thread and one core a rank, taken in turns so that both meet the same machine. Prints medians.
# PEAL_PYTHON names a python3 with PyTorch; leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOF'
usage: [PEAL_PYTHON=python3] tests/bench/against_pytorch.sh [--rounds N] [--steps N] [--peal FILE]
  --rounds N   measurements of each case (default 5)
  --steps N    steps of one PyTorch measurement (default 60)
  --peal FILE  the program (default build/peal)
EOF
}

rounds=5
steps=60
take_arguments "rounds steps peal" "$@"
no_operands

need_pytorch
need_program "$peal"

job=examples/fashion_mnist_cnn.textproto
make_work
settle_mpi

# Runs one rank and notes its peak resident memory, which the program need not report itself.
cat > "$work/rank.py" << 'EOF'
import os, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
with open(sys.argv[1], "a", encoding="ascii") as file:
    file.write(f"{peak}\n")
sys.exit(code)
EOF

# record CASE FILE: adds the last line of FILE, a JSON object, to the results of a case.
record() {
  tail -n1 "$2" >> "$work/$1.jsonl"
}

run_peal() {
  local name=$1 ranks=$2 batch=$3 reduction=$4
  local command=(mpirun -np "$ranks" --bind-to core --map-by core)
  [[ $ranks -gt 1 ]] || command=(taskset -c 0 mpirun -np 1 --bind-to none)
  "${command[@]}" python3 "$work/rank.py" "$work/$name.rss" "$peal" bench train "$job" --json \
    --set optimizer.adam.learning_rate=0.001 --set model.cnn.dropout=0.5 \
    --set "train.global_batch=$batch" --set "parallel.virtual_ranks=$ranks" \
    --set parallel.threads=1 --set "parallel.reduction=$reduction" > "$work/out"
  record "$name" "$work/out"
}

run_pytorch() {
  local name=$1 ranks=$2 batch=$3 choice=()
  # The first round tries memory formats and optimizers; the others keep what it found.
  if [[ -f $work/$name.jsonl ]]; then
    mapfile -t choice < <(head -n1 "$work/$name.jsonl" |
      python3 -c 'import json, sys
found = json.load(sys.stdin)
print("--format", found["memory_format"], "--adam", found["adam"], sep="\n")')
  fi
  local command=("$python" tests/bench/ddp_peer.py --ranks "$ranks" --global-batch "$batch"
    --steps "$steps" "${choice[@]}")
  [[ $ranks -gt 1 ]] || command=(taskset -c 0 "${command[@]}")
  "${command[@]}" > "$work/out"
  record "$name" "$work/out"
}

for ((round = 1; round <= rounds; ++round)); do
  for batch in 64 512; do
    for ranks in 1 2; do
      echo "round $round of $rounds: $ranks ranks, global batch $batch" >&2
      run_peal "peal_${ranks}_$batch" "$ranks" "$batch" RANK_INVARIANT
      run_pytorch "pytorch_${ranks}_$batch" "$ranks" "$batch"
    done
    run_peal "fast_2_$batch" 2 "$batch" FAST
  done
done

python3 - "$work" << 'EOF'
import json, statistics, sys
from pathlib import Path

work = Path(sys.argv[1])


def median(case, field):
    values = [json.loads(line).get(field) for line in (work / f"{case}.jsonl").open()]
    if field == "peak_rss_bytes" and (work / f"{case}.rss").exists():
        values = [int(line) for line in (work / f"{case}.rss").open()]
    return statistics.median(values) if values and None not in values else None


def show(value, form):
    return "-" if value is None else format(value, form)


def ratio(a, b):
    return a / b if a is not None and b else None


first = json.loads((work / "pytorch_1_64.jsonl").open().readline())
print(f"medians; PyTorch {first['pytorch']}")
print(f"{'ranks':>5} {'batch':>6} {'Peal /s':>9} {'PyTorch /s':>11} {'ratio':>6} "
      f"{'Peal MiB':>9} {'PyTorch MiB':>12} {'ratio':>6} {'first step s':>13} {'PyTorch':>8}")
for batch in (64, 512):
    for ranks in (1, 2):
        ours, theirs = f"peal_{ranks}_{batch}", f"pytorch_{ranks}_{batch}"
        speed = [median(case, "samples_per_second") for case in (ours, theirs)]
        memory = [ratio(median(case, "peak_rss_bytes"), 2**20) for case in (ours, theirs)]
        start = [median(case, "time_to_first_step_seconds") for case in (ours, theirs)]
        print(f"{ranks:>5} {batch:>6} {show(speed[0], '9.0f'):>9} {show(speed[1], '11.0f'):>11} "
              f"{show(ratio(*speed), '6.2f'):>6} {show(memory[0], '9.0f'):>9} "
              f"{show(memory[1], '12.0f'):>12} {show(ratio(*memory), '6.2f'):>6} "
              f"{show(start[0], '13.2f'):>13} {show(start[1], '8.2f'):>8}")
for batch in (64, 512):
    one, two, fast = (median(case, "samples_per_second")
                      for case in (f"peal_1_{batch}", f"peal_2_{batch}", f"fast_2_{batch}"))
    print(f"Peal, batch {batch}: 2 ranks / 1 rank {two / one:.2f}; "
          f"2 ranks RANK_INVARIANT / FAST {two / fast:.3f}")
EOF
