#!/usr/bin/env bash
# The GPT of examples/tinyshakespeare_gpt.textproto beside the same model under PyTorch
# (gpt_peer.py): training samples/s on one core, in turns, and, with --train, the test loss of both.
# PEAL_PYTHON names a python3 with PyTorch; leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOF'
usage: [PEAL_PYTHON=python3] tests/bench/gpt_against_pytorch.sh --text FILE [--rounds N] [--steps N]
                                                              [--train N] [--peal FILE]
  --text FILE  tinyshakespeare's input.txt
  --rounds N   measurements of speed on each side (default 5; 0: none)
  --steps N    steps of one (default 60)
  --train N    then train both for N steps and compare the test loss (default 0: do not)
  --peal FILE  the program (default build/peal)
EOF
}

rounds=5
steps=60
train=0
take_arguments "text rounds steps train peal" "$@"
no_operands
[[ -r ${text:-} ]] || refuse "no file at '${text:-}'; --text names tinyshakespeare"

need_pytorch
need_program "$peal"

make_work
export OMP_NUM_THREADS=1
job=examples/tinyshakespeare_gpt.textproto
settings=(--set "data.train.tokens.path=[\"$text\"]" --set "data.test.tokens.path=[\"$text\"]"
  --set parallel.threads=1)

for ((round = 1; round <= rounds; ++round)); do
  echo "round $round of $rounds" >&2
  taskset -c 0 "$peal" bench train "$job" --json --warmup 5 --steps "$steps" "${settings[@]}" |
    tail -n1 >> "$work/peal.jsonl"
  taskset -c 0 "$python" tests/bench/gpt_peer.py --text "$text" --steps "$steps" \
    >> "$work/pytorch.jsonl"
done

if [[ $rounds -gt 0 ]]; then
  python3 - "$work" << 'EOF'
import json, statistics, sys
from pathlib import Path

work = Path(sys.argv[1])


def rates(name):
    return [json.loads(line)["samples_per_second"] for line in (work / f"{name}.jsonl").open()]


ours, theirs = rates("peal"), rates("pytorch")
last = json.loads((work / "pytorch.jsonl").open().readlines()[-1])
print(f"samples/s, one core: Peal {statistics.median(ours):.0f}, PyTorch {last['pytorch']} "
      f"({last['adam']}) {statistics.median(theirs):.0f}, ratio "
      f"{statistics.median(ours) / statistics.median(theirs):.2f}")
print("Peal " + " ".join(f"{rate:.0f}" for rate in ours))
print("PyTorch " + " ".join(f"{rate:.0f}" for rate in theirs))
EOF
fi

if [[ $train -gt 0 ]]; then
  echo "training both for $train steps" >&2
  taskset -c 0 "$peal" train "$job" "${settings[@]}" --set "train.max_steps=$train" \
    --set "run.directory=$work/run" --fresh > "$work/train.log" 2>&1 ||
    { tail "$work/train.log" >&2; exit 1; }
  taskset -c 0 "$python" tests/bench/gpt_peer.py --text "$text" --train "$train" \
    > "$work/peer.json"
  python3 - "$work" << 'EOF'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
ours = None
for line in (work / "run" / "metrics.jsonl").open():
    ours = json.loads(line).get("test_loss", ours)
theirs = json.loads((work / "peer.json").read_text())
print(f"test loss after {theirs['steps']} steps: Peal {ours:.4f}, "
      f"PyTorch {theirs['test_loss']:.4f}, difference {ours - theirs['test_loss']:+.4f}")
EOF
fi
