#!/usr/bin/env bash
# How quickly a GPT-2 goes on with a text, on one core, in turns: Peal with its cache of keys and
# values, Peal as it was without (the whole text anew for each token), and PyTorch with a cache
# (torch_generate.py). The weights are random, of the shape of GPT-2 124M. Prints medians, and which
# part of Peal's time reading the weights once would take.
# PEAL_PYTHON names a python3 with PyTorch; leave the machine alone while this runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/bench/bench.sh
source tests/bench/bench.sh

usage() {
  cat <<'EOF'
usage: [PEAL_PYTHON=python3] tests/bench/generate_against_pytorch.sh [--rounds N] [--tokens N]
                                                   [--prompts "N N"] [--full N] [--bench FILE]
  --rounds N     measurements of each case (default 5)
  --tokens N     tokens of one with a cache (default 64)
  --full N       tokens of one without (default 6)
  --prompts "N"  lengths of the prompt (default "16 128 896")
  --bench FILE   the program (default build/generate_bench)
EOF
}

rounds=5
tokens=64
full=6
prompts="16 128 896"
bench=build/generate_bench
take_arguments "rounds tokens full prompts bench" "$@"
no_operands

need_pytorch
[[ -x $bench ]] || refuse "no program at $bench; build generate_bench or name it with --bench"

make_work
export OMP_NUM_THREADS=1
job=$work/gpt2.textproto weights=$work/gpt2.safetensors
echo 'model { gpt { vocabulary: 50257 context: 1024 layers: 12 heads: 12 width: 768 } }' > "$job"
"$python" tests/bench/torch_generate.py weights --out "$weights"

for ((round = 1; round <= rounds; ++round)); do
  for prompt in $prompts; do
    echo "round $round of $rounds: prompt of $prompt" >&2
    taskset -c 0 "$bench" "$job" "$weights" "$prompt" "$tokens" cached |
      sed "s/^/$prompt\tcached\t/" >> "$work/results"
    taskset -c 0 "$python" tests/bench/torch_generate.py run --weights "$weights" \
      --prompt "$prompt" --tokens "$tokens" | sed "s/^/$prompt\tpytorch\t/" >> "$work/results"
    taskset -c 0 "$bench" "$job" "$weights" "$prompt" "$full" full |
      sed "s/^/$prompt\tfull\t/" >> "$work/results"
  done
done

python3 - "$work/results" << 'EOF'
import json, statistics, sys

found = {}
for line in open(sys.argv[1]):
    prompt, who, result = line.rstrip("\n").split("\t")
    found.setdefault(prompt, {}).setdefault(who, []).append(json.loads(result))

print("| prompt | tokens/s without cache | with | ratio | PyTorch | ratio | of the memory bound | "
      "first token after |")
print("|---|---|---|---|---|---|---|---|")
for prompt, of in found.items():
    def middle(who, what):
        return statistics.median(result[what] for result in of[who])
    before, after, theirs = (middle(who, "tokens_per_second")
                             for who in ("full", "cached", "pytorch"))
    firsts = " : ".join(f"{middle(who, 'first_seconds'):.2f} s" for who in ("cached", "pytorch"))
    print(f"| {prompt} | {before:.2f} | {after:.1f} | {after / before:.1f} | {theirs:.1f} | "
          f"{after / theirs:.2f} | {100 * middle('cached', 'of_memory_bound'):.0f}% | {firsts} |")
every = [result for of in found.values() for result in of["cached"]]
print("read", " ".join(f"{result['read_gb_per_second']:.0f}" for result in every), "GB/s;",
      "PyTorch", found[next(iter(found))]["pytorch"][0]["pytorch"])
EOF
