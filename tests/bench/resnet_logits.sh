#!/usr/bin/env bash
# ResNet-50 of full size with weights that PyTorch saved: its logits beside PyTorch's (in float64), for
# four pictures of 224x224. PEAL_PYTHON names a python3 with PyTorch. --depth 18 or 34: another one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

depth=50
[[ ${1:-} != --depth ]] || depth=$2
program=build/model_logits
if [[ ! -x $program ]]; then
  echo "resnet_logits.sh: no program at $program; build it" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PEAL_PYTHON:-python3}" tests/bench/torch_resnet.py logits --depth "$depth" --stem imagenet \
  --classes 1000 --out "$work"
echo "model { resnet { depth: $depth } }" > "$work/job.textproto"
"$program" "$work/job.textproto" "$work"
