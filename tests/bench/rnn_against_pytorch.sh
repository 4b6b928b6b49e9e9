#!/usr/bin/env bash
# Training speed of recurrent layers (2 x 128, a dense layer, Adam) beside PyTorch's nn.LSTM and
# nn.GRU: the same model, batch and steps, one thread on one core, taken in turns. Prints medians and
# what part of a step the products would take at the speed of PyTorch's large matrix product.
# PEAL_PYTHON names a python3 with PyTorch; leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOF'
usage: [PEAL_PYTHON=python3] tests/bench/rnn_against_pytorch.sh [--rounds N] [--steps N] [--peal FILE]
                                                                [--cells "LSTM GRU"]
  --rounds N     measurements of each case (default 3)
  --steps N      steps of one measurement (default 20)
  --peal FILE    the program (default build/peal)
  --cells WORDS  of LSTM, GRU, TANH (default "LSTM GRU")
EOF
}

rounds=3
steps=20
cells="LSTM GRU"
take_arguments "rounds steps peal cells" "$@"
no_operands

need_pytorch
need_program "$peal"

job=examples/fashion_mnist_lstm.textproto
make_work
export OMP_NUM_THREADS=1

# case: cell, steps of a record, inputs of a step, batch
for ((round = 1; round <= rounds; ++round)); do
  for cell in $cells; do
    for shape in "28 28 32" "28 28 64" "28 28 128" "56 14 64"; do
      read -r length inputs batch <<< "$shape"
      case="$cell $length $inputs $batch"
      echo "round $round of $rounds: $case" >&2
      taskset -c 0 "$peal" bench train "$job" --json --steps "$steps" --warmup 3 \
        --set "model.rnn.cell=$cell" --set "model.rnn.steps=$length" \
        --set "model.rnn.inputs=$inputs" --set model.rnn.dropout=0 --set train.clip_norm=0 \
        --set "train.global_batch=$batch" --set parallel.virtual_ranks=1 \
        --set parallel.threads=1 | tail -n1 | sed "s/^/$case\tpeal\t/" >> "$work/results"
      taskset -c 0 "$python" tests/bench/torch_rnn.py "$cell" "$length" "$inputs" "$batch" \
        --steps "$steps" | sed "s/^/$case\tpytorch\t/" >> "$work/results"
    done
  done
done

python3 - "$work/results" << 'EOF'
import json, statistics, sys

found = {}
for line in open(sys.argv[1]):
    case, who, result = line.rstrip("\n").split("\t")
    found.setdefault(case, {}).setdefault(who, []).append(json.loads(result))


def median(results, field):
    return statistics.median(result[field] for result in results)


last = next(iter(found.values()))["pytorch"][0]
print(f"medians; PyTorch {last['pytorch']}; limit: the products alone, at "
      f"{max(r['gemm_gflops'] for c in found.values() for r in c['pytorch']):.0f} GFLOP/s")
print(f"{'cell':>5} {'T':>4} {'I':>4} {'batch':>6} {'Peal /s':>9} {'PyTorch /s':>11} {'ratio':>6} "
      f"{'step ms':>8} {'limit ms':>9}")
for case, of in found.items():
    cell, length, inputs, batch = case.split()
    gates, hidden = {"LSTM": 4, "GRU": 3, "TANH": 1}[cell], 128
    unit = 2 * int(batch) * int(length) * gates * hidden
    flops = unit * (3 * (int(inputs) + 3 * hidden) - int(inputs))  # no gradient of x
    rate = max(r["gemm_gflops"] for c in found.values() for r in c["pytorch"]) * 1e9
    ours, theirs = (median(of[who], "samples_per_second") for who in ("peal", "pytorch"))
    print(f"{cell:>5} {length:>4} {inputs:>4} {batch:>6} {ours:9.0f} {theirs:11.0f} "
          f"{ours / theirs:6.2f} {1e3 * int(batch) / ours:8.2f} {1e3 * flops / rate:9.2f}")
EOF
