#!/usr/bin/env bash
# Speed of `peal shard` on 60,000 PNG files at one and two ranks, in turns.
#   tests/bench/shard_pictures.sh make FOLDER     writes Fashion-MNIST's training pictures as PNG
#   tests/bench/shard_pictures.sh run FOLDER [ROUNDS]
# Prints, for each round, the seconds that peal says for itself and those of the whole command.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
peal=${PEAL_BINARY:-$here/../../build/peal}
data=${PEAL_TEST_DATA:-$here/../../../shared/data}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none

make_pictures() {
  PYTHONPATH=$here/../cli python3 - "$data/fashion-mnist" "$1" <<'PYTHON'
import pathlib, sys
from pictures import Pictures
data, folder = map(pathlib.Path, sys.argv[1:])
Pictures(data / "train-images-idx3-ubyte.gz", data / "train-labels-idx1-ubyte.gz",
         60000).write_folder(folder / "png")
PYTHON
  printf 'data { train { pictures { folder: "%s/png" } } }\n' "$1" > "$1/job.textproto"
}

run_once() {  # FOLDER RANKS
  rm -rf "$1/shards"
  local begin end
  begin=$(date +%s.%N)
  mpirun -np "$2" --bind-to core "$peal" shard "$1/job.textproto" --count 16 --out "$1/shards"
  end=$(date +%s.%N)
  echo "  $2 rank(s): the whole command $(echo "$end - $begin" | bc) s"
}

case "${1:-}" in
  make) mkdir -p "$2" && make_pictures "$2" ;;
  run)
    for ((round = 0; round < ${3:-3}; ++round)); do
      run_once "$2" 1
      run_once "$2" 2
    done
    ;;
  *) sed -n '2,5s/^# \?//p' "$0" >&2; exit 2 ;;
esac
