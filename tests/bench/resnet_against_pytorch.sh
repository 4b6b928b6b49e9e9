#!/usr/bin/env bash
# Training speed of ResNet-18 (CIFAR's stem, SGD with momentum, float32) beside PyTorch: one thread on
# one core, taken in turns so that both meet the same machine. Prints medians. Peal reads, crops, flips
# and standardises its pictures on that core, too; PyTorch has them in memory and only standardises.
# PEAL_PYTHON names a python3 with PyTorch; leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOF'
usage: [PEAL_PYTHON=python3] tests/bench/resnet_against_pytorch.sh CIFAR_FILE [--rounds N] [--steps N]
         [--batch N]... [--peal FILE] [--core N]
  CIFAR_FILE   a binary file of CIFAR-10, plain or gzip
  --rounds N   measurements of each (default 3)
  --steps N    steps of one measurement (default 6)
  --batch N    records of a step; may be given again (default 32 and 128)
  --peal FILE  the program (default build/peal)
  --core N     the core to use (default 0)
EOF
}

rounds=3 steps=6 core=0 batch=()
take_arguments "rounds steps peal core batch+" "$@"
one_file "a binary file of CIFAR-10"
batches=("${batch[@]}")
[[ ${#batches[@]} -gt 0 ]] || batches=(32 128)
need_pytorch
need_program "$peal"

export OMP_NUM_THREADS=1
make_work

run_peal() {
  taskset -c "$core" "$peal" bench train examples/cifar10_resnet18.textproto --json --warmup 2 \
    --steps "$steps" --set "data.train.cifar.path=[$file]" --set "data.test.cifar.path=[$file]" \
    --set data.test.limit=1 --set "train.global_batch=$1" --set parallel.virtual_ranks=1 \
    --set parallel.threads=1 | tail -n1 >> "$work/peal_$1"
}

run_pytorch() {
  local format=auto  # the first round tries memory formats; the others keep what it found
  [[ ! -f $work/pytorch_$1 ]] || format=$(head -n1 "$work/pytorch_$1" |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["memory_format"])')
  taskset -c "$core" "$python" tests/bench/torch_resnet.py speed --batch "$1" --steps "$steps" \
    --format "$format" | tail -n1 >> "$work/pytorch_$1"
}

for ((round = 1; round <= rounds; ++round)); do
  for batch in "${batches[@]}"; do
    echo "round $round of $rounds: batch $batch" >&2
    run_peal "$batch"
    run_pytorch "$batch"
  done
done

python3 - "$work" "${batches[@]}" << 'EOF'
import json, statistics, sys
from pathlib import Path

work, batches = Path(sys.argv[1]), sys.argv[2:]


def read(name):
    return [json.loads(line) for line in (work / name).open()]


first = read(f"pytorch_{batches[0]}")[0]
print(f"medians of {len(read(f'peal_{batches[0]}'))} rounds; PyTorch {first['pytorch']}")
print(f"{'batch':>6} {'Peal /s':>9} {'PyTorch /s':>11} {'ratio':>6}  format")
for batch in batches:
    ours, theirs = read(f"peal_{batch}"), read(f"pytorch_{batch}")
    speed = [statistics.median(int(batch) / (run["median_ms_per_step"] / 1e3) for run in runs)
             for runs in (ours, theirs)]
    print(f"{batch:>6} {speed[0]:9.1f} {speed[1]:11.1f} {speed[0] / speed[1]:6.2f}  "
          f"{theirs[0]['memory_format']}")
EOF
