#!/usr/bin/env bash
# From a bare Debian 12 machine to a trained model: installs what is missing, builds, trains a CNN
# on Fashion-MNIST over two MPI ranks and evaluates it. Run again, it goes on where it stopped.
#   examples/fashion_mnist.sh                            train, or go on, or only evaluate
#   examples/fashion_mnist.sh --fresh                    start over
#   examples/fashion_mnist.sh --set train.epochs=2       any argument of `peal train`
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

job=examples/fashion_mnist_cnn.textproto
run_directory=$(sed -n 's/^run *{ *directory: *"\(.*\)".*/\1/p' "$job")

# Settings change what is evaluated as well; the other arguments are for training only.
settings=()
arguments=("$@")
for ((i = 0; i < $#; ++i)); do
  case "${arguments[i]}" in
    --set) [[ $((i + 1)) -ge $# ]] || settings+=(--set "${arguments[i + 1]}") ;;
    --set=*) settings+=(--set "${arguments[i]#--set=}") ;;
  esac
done
for setting in "${settings[@]}"; do
  [[ $setting != run.directory=* ]] || run_directory=${setting#run.directory=}
done

if [[ $(id -u) -eq 0 ]]; then
  # Open MPI refuses to run as root unless asked twice.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Containers commonly forbid the system call behind single copies between processes.
export OMPI_MCA_btl_vader_single_copy_mechanism=none

show_and_run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}

show_and_run cluster/install_deps.sh
show_and_run cmake --preset default
show_and_run cmake --build --preset default --target peal
# Oversubscribed and unbound, so that it also works where there is only one core.
show_and_run mpirun -np 2 --oversubscribe --bind-to none build/peal train "$job" "$@"
show_and_run build/peal eval "$run_directory" "$job" "${settings[@]}"
