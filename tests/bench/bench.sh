# What the benchmark scripts share: arguments, and what they need. Source it; the caller has a
# function `usage`, sets its defaults, and stands in the root of the source tree.
# shellcheck shell=bash

script=$(basename "$0")
# shellcheck disable=SC2034  # the scripts use it
peal=${PEAL_BINARY:-build/peal}
python=${PEAL_PYTHON:-python3}
operands=()  # the arguments that are no options
settings=()  # what --set said, as words for peal

refuse() {
  usage >&2
  echo "$script: $1" >&2
  exit 2
}

# take_arguments NAMES ARGUMENT...: `--held-out 3` sets $held_out for the names of the list, which has
# the words of options; a name with a + may be given again, and its values make an array.
take_arguments() {
  local names=" $1 " name
  shift
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --help | -h) usage; exit 0 ;;
      --*) ;;
      -*) refuse "unknown argument '$1'" ;;
      *) operands+=("$1"); shift; continue ;;
    esac
    name=${1#--}
    [[ $names == *" $name "* || $names == *" $name+ "* ]] || refuse "unknown argument '$1'"
    [[ $# -ge 2 ]] || refuse "$1 needs a value"
    if [[ $name == set ]]; then
      settings+=(--set "$2")
    elif [[ $names == *" $name+ "* ]]; then
      declare -ga "${name//-/_}+=($(printf '%q' "$2"))"
    else
      declare -g "${name//-/_}=$2"
    fi
    shift 2
  done
}

no_operands() {
  [[ ${#operands[@]} -eq 0 ]] || refuse "unknown argument '${operands[0]}'"
}

# one_file WHAT: the only operand, a file that can be read, as $file.
one_file() {
  [[ ${#operands[@]} -eq 1 ]] || refuse "name one file: $1"
  file=${operands[0]}
  [[ -r $file ]] || refuse "no file '$file'"
}

need_program() {
  [[ -x $1 ]] || { echo "$script: no program at $1; build it or name it with --peal" >&2; exit 2; }
}

need_pytorch() {
  if ! "$python" -c 'import torch.distributed' 2> /dev/null; then
    echo "$script: $python has no PyTorch. Make one that has, for example:" >&2
    echo "  python3 -m venv build/torch && build/torch/bin/pip install torch numpy" >&2
    echo "  PEAL_PYTHON=build/torch/bin/python tests/bench/$script" >&2
    exit 2
  fi
}

# A folder that goes with the script, as $work.
make_work() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
}

# mpirun as root, and no more threads than asked for.
settle_mpi() {
  if [[ $(id -u) -eq 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  export OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_NUM_THREADS=1
}
