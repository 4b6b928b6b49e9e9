#!/usr/bin/env bash
# What ResNet-18 reaches on a part of CIFAR-10 after a few epochs, with Peal and with PyTorch: the same
# first weights, records, augmentation, optimizer and schedule. The last records of the file are held
# out. Each has a core of its own. Prints the test accuracy of each after each epoch, and of both the
# mean over the last three. PEAL_PYTHON names a python3 with PyTorch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOF'
usage: [PEAL_PYTHON=python3] tests/bench/resnet_accuracy.sh CIFAR_FILE [--epochs N] [--seeds "1 2"]
         [--batch N] [--rate R] [--held-out N] [--warmup N] [--peal FILE]
  CIFAR_FILE     a binary file of CIFAR-10, plain or gzip
  --epochs N     (default 6)
  --seeds "..."  runs, each from other first weights (default "1")
  --batch N      records of a step (default 64)
  --rate R       learning rate at its highest (default 0.05)
  --warmup N     steps until it is reached (default 25)
  --held-out N   first record of the test set (default 3200)
  --peal FILE    the program (default build/peal)
EOF
}

epochs=6 seeds=1 batch=64 rate=0.05 held_out=3200 warmup=25
take_arguments "epochs seeds batch rate held-out warmup peal" "$@"
one_file "a binary file of CIFAR-10"
need_pytorch
need_program "$peal"
export OMP_NUM_THREADS=1
make_work

train_peal() {
  taskset -c 0 "$peal" train examples/cifar10_resnet18.textproto --fresh \
    --set "run.directory=$work/peal_$1" --set "model.weights=$work/start_$1.safetensors" \
    --set "data.train.cifar.path=[$file]" --set "data.train.cifar.end=$held_out" \
    --set "data.test.cifar.path=[$file]" --set "data.test.cifar.begin=$held_out" \
    --set "optimizer.sgd.learning_rate=$rate" --set "schedule.warmup_steps=$warmup" \
    --set "train.epochs=$epochs" --set "train.global_batch=$batch" --set "train.seed=$1" \
    --set parallel.virtual_ranks=1 --set parallel.threads=1 > "$work/peal_$1.log"
}

for seed in $seeds; do
  "$python" tests/bench/torch_resnet.py weights --seed "$seed" --out "$work/start_$seed.safetensors"
  train_peal "$seed" &
  taskset -c 1 "$python" tests/bench/torch_resnet.py train --data "$file" --held-out "$held_out" \
    --weights "$work/start_$seed.safetensors" --epochs "$epochs" --batch "$batch" --rate "$rate" \
    --warmup "$warmup" --seed "$seed" --augment > "$work/pytorch_$seed.jsonl"
  wait $!
done

python3 - "$work" $seeds << 'EOF'
import json, statistics, sys
from pathlib import Path

work, seeds = Path(sys.argv[1]), sys.argv[2:]
ends = {"Peal": [], "PyTorch": []}
for seed in seeds:
    peal = [json.loads(line) for line in (work / f"peal_{seed}/metrics.jsonl").open()]
    runs = {"Peal": [m["test_accuracy"] for m in peal if "test_accuracy" in m],
            "PyTorch": [json.loads(line)["test_accuracy"]
                        for line in (work / f"pytorch_{seed}.jsonl").open()]}
    for name, values in runs.items():
        ends[name].append(statistics.mean(values[-3:]))
        print(f"seed {seed} {name:>7}:", " ".join(f"{100 * v:5.1f}" for v in values))
for name, values in ends.items():
    print(f"{name:>7}: {100 * statistics.mean(values):.2f}")
EOF
