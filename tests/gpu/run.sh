#!/usr/bin/env bash
# Tests and measures Peal on a machine that has a GPU and nothing of what Peal is built with: `pack`
# makes an archive where Peal is built, `run` works in the unpacked archive. See README.md beside it.
set -uo pipefail

usage() {
  cat <<'EOT'
usage: run.sh pack FILE [--build FOLDER]
       run.sh run [FOLDER] [--only LIST] [--sanitizer] [--device N] [--report FILE]
pack  an archive (.tar.gz) with the test programs and all that they need but libc and the GPU's
      libraries; FOLDER is a finished build (default: build)
run   all checks; FOLDER is the unpacked archive (default: where this script lies)
  --only LIST    groups with commas between them: device, kernels, graph, bits, comm, train, bench,
                 collectives, sanitizer
  --sanitizer    compute-sanitizer too, which takes minutes
  --device N     of computing checks (default: 0)
  --report FILE  default: FOLDER/report.md
Exit status: 0 all passed, 1 something failed or did not run, 2 wrong use, 77 there is no GPU.
EOT
}

fail() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
test_programs=(kernels_test graph_test optim_test models_test gpu_test cuda_bench)

# ---- pack --------------------------------------------------------------------------------------

pack() {
  local source build archive='' words=() root program data
  source=$(cd "$here/../.." && pwd)
  build=$source/build
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --build) [[ $# -ge 2 ]] || fail "--build needs a value"; build=$2; shift 2 ;;
      -*) fail "unknown argument '$1'" ;;
      *) [[ -z $archive ]] || fail "one FILE, not '$archive' and '$1'"; archive=$1; shift ;;
    esac
  done
  [[ -n $archive ]] || fail "pack needs a FILE"
  [[ -f $source/cluster/bundle.sh ]] || fail "pack works in Peal's source tree"
  work=$(mktemp -d) || exit 1  # not local: the trap needs it
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/programs"
  for program in peal "${test_programs[@]}"; do
    [[ -x $build/$program ]] || fail "$build has no program $program; build it first, with CUDA"
    strip --strip-debug -o "$work/programs/$program" "$build/$program" || exit 1
    [[ $program == peal ]] || words+=(--with "$program")
  done
  "$source/cluster/bundle.sh" --build "$work/programs" --system libnccl "${words[@]}" \
    -o "$work/bundle.tar.gz" > "$work/bundle.log" || { cat "$work/bundle.log" >&2; exit 1; }
  mkdir "$work/bundle"
  tar xf "$work/bundle.tar.gz" -C "$work/bundle" || exit 1
  root=$work/peal-gpu-tests
  mv "$work"/bundle/* "$root"
  mkdir "$root/golden"
  cp "$source"/tests/golden/*.bin "$source"/tests/golden/*.txt "$root/golden/" &&
    cp "$here/run.sh" "$here/left_out.txt" "$here/README.md" "$root/" &&
    cp "$source"/tests/bench/torch_{kernels,cnn,training}.py "$source"/tests/golden/{gpt2,resnet}.py \
      "$here/train.py" "$root/" &&
    mkdir -p "$root/tests/bench" &&
    cp "$source"/tests/bench/{bench.sh,collectives_against_gloo.sh,gloo_peer.py} "$root/tests/bench/" ||
    exit 1
  data=${PEAL_TEST_DATA:-$source/../shared/data}
  mkdir "$root/data"
  cp "$data"/fashion-mnist/t10k-*.gz "$data"/tinyshakespeare/input.txt \
    "$data"/gpt2/{encoder.json,vocab.bpe} "$root/data/" ||
    fail "training needs Fashion-MNIST, tinyshakespeare and GPT-2's tokenizer in $data; set PEAL_TEST_DATA"
  [[ -f $build/libkernel_times.so ]] || fail "$build has no libkernel_times.so; build it first, with CUPTI"
  cp "$build/libkernel_times.so" "$root/lib/" && patchelf --remove-rpath "$root/lib/libkernel_times.so" ||
    exit 1
  "$root/peal" --version > "$root/built.txt"
  git -C "$source" describe --always --dirty --abbrev=12 >> "$root/built.txt" 2> /dev/null
  tar czf "$archive" -C "$work" --owner=0 --group=0 --sort=name peal-gpu-tests || exit 1
  echo "$archive: $(du -m "$archive" | cut -f1) MiB; unpack it, then peal-gpu-tests/run.sh run"
}

# ---- run: what there is ------------------------------------------------------------------------

# The first Python that has PyTorch, else the first of all.
find_python() {
  local candidate first=
  for candidate in ${PEAL_PYTHON:+"$PEAL_PYTHON"} python3 python /opt/*/bin/python3 /usr/local/bin/python3; do
    type -P "$candidate" > /dev/null || continue
    first=${first:-$candidate}
    if "$candidate" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' \
      2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "$first"
}

# Folders of NVIDIA's libraries beside that Python's torch, and of the CUDA toolkit.
library_folders() {
  [[ -z $python ]] || "$python" - 2> /dev/null <<'EOT'
import glob, importlib.util, os
for name in ("torch", "nvidia"):
    found = importlib.util.find_spec(name)
    for place in (found.submodule_search_locations or []) if found else []:
        site = os.path.dirname(place.rstrip("/"))
        for folder in sorted(glob.glob(site + "/nvidia/*/lib")) + [site + "/torch/lib"]:
            print(folder)
EOT
  printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda/lib /usr/local/cuda/targets/x86_64-linux/lib
}

on_loaders_path() {
  local folder folders
  IFS=: read -ra folders <<< "${LD_LIBRARY_PATH:-}"
  for folder in "${folders[@]}"; do [[ ! -e $folder/$1 ]] || { echo "$folder/$1"; return; }; done
  PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2> /dev/null | sed -n "s|^\s*$1 .* => ||p" | head -n1
}

# Puts on LD_LIBRARY_PATH what the loader does not find, and says where each library is.
find_libraries() {
  local library folder found added=
  for library in libcudnn.so.9 libcublasLt.so.13 libnccl.so.2 libcupti.so.13; do
    [[ -z $(on_loaders_path "$library") ]] || continue
    while read -r folder; do
      if [[ -e $folder/$library ]]; then
        added=yes
        break
      fi
    done < <(library_folders)
  done
  if [[ -n $added ]]; then
    while read -r folder; do
      [[ ! -d $folder ]] || LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
    done < <(library_folders | awk '!seen[$0]++')
    export LD_LIBRARY_PATH
  fi
  for library in libcudnn.so.9 libcublasLt.so.13 libnccl.so.2 libcupti.so.13; do
    found=$(on_loaders_path "$library")
    echo "- $library: ${found:-not found}"
  done
}

find_sanitizer() {
  local candidate
  for candidate in compute-sanitizer /usr/local/cuda*/bin/compute-sanitizer; do
    type -P "$candidate" && return
  done
}

describe_machine() {
  echo "# Peal on a GPU"
  echo
  echo "- Peal: $(paste -sd' ' "$root/built.txt")"
  echo "- GPU: $(nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm \
    --format=csv,noheader | paste -sd';')"
  echo "- CPU: $(nproc) cores, $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n1)"
  echo "- system: $(uname -sr), libc $(ldd --version 2> /dev/null | sed -n '1s/.* //p')," \
    "/dev/shm $(df -h --output=size /dev/shm 2> /dev/null | tail -n1 | tr -d ' ')"
  echo "- Python: ${python:-none}"
  find_libraries
  echo
}

# ---- run: checks -------------------------------------------------------------------------------

passed=0 failed=0 not_run=0
failures=()

row() {
  # shellcheck disable=SC2016  # Markdown
  printf '| %s | %s | %s | %s | `%s` |\n' "$@" >> "$report"
  printf '%-12s %-24s %5s s  %s\n' "$2" "$1" "$3" "$4"
}

did_not_run() {
  not_run=$((not_run + 1))
  row "$1" "DID NOT RUN" 0 "$2" "${3:-}"
}

# check NAME LIMIT COMMAND...: runs it for at most LIMIT seconds; its output is logs/NAME.log. A
# program of GoogleTest must have run something.
check() {
  local name=$1 limit=$2 log start status=0 said
  shift 2
  log=$logs/${name// /_}.log
  start=$(date +%s)
  timeout -k 10 "$limit" "$@" > "$log" 2>&1 < /dev/null || status=$?
  said=$(grep -E '^\[  PASSED  \]|^passed: |^========= (ERROR|RACECHECK) SUMMARY' "$log" |
    tail -n1 | tr -d '[]=' | tr -s ' ')
  if [[ $status == 0 ]] && grep -q '^\[==========\] 0 tests' "$log"; then
    status='0 with no test run'
  fi
  if [[ $status == 77 ]]; then
    did_not_run "$name" "$(tail -n1 "$log")" "$*"
  elif [[ $status == 127 ]] && grep -q 'error while loading shared libraries' "$log"; then
    did_not_run "$name" "$(sed -n 's/.*shared libraries: //p' "$log" | head -n1)" "$*"
  elif [[ $status == 0 ]]; then
    passed=$((passed + 1))
    row "$name" PASS "$(($(date +%s) - start))" "${said# }" "$*"
  else
    failed=$((failed + 1))
    failures+=("$name")
    [[ $status != 124 && $status != 137 ]] || status="$status, time limit of $limit s"
    row "$name" FAIL "$(($(date +%s) - start))" \
      "exit $status; $(grep -c '^\[  FAILED  \].*ms)$' "$log") tests failed" "$*"
  fi
}

filter_of() {
  sed -n "s/^$1 //p" "$root/left_out.txt"
}

on_device() {
  local name=$1 limit=$2
  shift 2
  check "$name" "$limit" env PEAL_TEST_DEVICE="cuda:$device" "$@"
}

run_device() {
  check "device" 60 "$root/bin/gpu_test" device 1
}

run_kernels() {
  on_device "kernels" 180 "$root/bin/kernels_test" "--gtest_filter=-$(filter_of kernels_test)"
  on_device "optimizers" 60 "$root/bin/optim_test" "--gtest_filter=-$(filter_of optim_test)"
}

run_graph() {
  on_device "graph" 180 "$root/bin/graph_test" "--gtest_filter=-$(filter_of graph_test)"
  on_device "models" 60 "$root/bin/models_test" "--gtest_filter=-$(filter_of models_test)"
}

# Two processes that run the same calls. Within one, kernels_test makes each call twice.
run_bits() {
  local side words
  words=(--gtest_filter="-$(filter_of kernels_test):SameBits.*")
  for side in 1 2; do
    on_device "bits of run $side" 180 env PEAL_TEST_BITS="$logs/bits.$side" \
      "$root/bin/kernels_test" "${words[@]}"
  done
  check "same bits in both" 10 cmp "$logs/bits.1" "$logs/bits.2"
  on_device "same bits of graphs" 120 "$root/bin/graph_test" '--gtest_filter=*RepeatsItsBits*'
}

run_comm() {
  local case
  for case in "staged 1" "staged 2" "staged 4" "nccl 1" "nccl 2" "nccl 4" "late 2" "late 3" "abort 3"; do
    # shellcheck disable=SC2086  # two words
    check "comm $case" 120 "$root/bin/gpu_test" $case
  done
}

run_train() {
  if [[ -n $python ]]; then
    check "training" 500 "$python" "$root/train.py" "$root/peal" "$root/data"
  else
    did_not_run "training" "no Python here"
  fi
}

run_bench() {
  check "bench" 120 "$root/bin/cuda_bench" "cuda:$device"
  if [[ -n $python ]]; then
    check "bench of PyTorch" 180 "$python" "$root/torch_kernels.py" --beside "$logs/bench.log"
    check "CNN beside PyTorch" 120 "$python" "$root/torch_cnn.py" "$root/peal" "$root/data"
    check "CNN without graphs beside PyTorch" 120 "$python" "$root/torch_cnn.py" "$root/peal" "$root/data" \
      --set train.cuda_graphs=false
    check "training beside PyTorch" 400 "$python" "$root/torch_training.py" "$root/peal" "$root/data" \
      --fast --kernel-times "$root/lib/libkernel_times.so"
  else
    did_not_run "bench of PyTorch" "no Python here"
  fi
}

# On the CPU's cores, which such machines have many of: each rank wants one of its own, and nobody
# beside it. Through a Peal that is tuned there, as its users are told to.
run_collectives() {
  local ranks mpi
  local -x PEAL_TUNE=$logs/tuning
  for ranks in 2 4; do
    if [[ $(nproc) -lt $ranks ]]; then
      did_not_run "collectives of $ranks" "$(nproc) cores here"
      continue
    fi
    mpi=(mpirun -np "$ranks" --bind-to core "$root/peal" bench collectives)
    check "tuning for $ranks" 120 "${mpi[@]}" --tune
    check "all_reduce of $ranks" 240 "${mpi[@]}" --compare mpi
    check "ordered tree of $ranks" 120 "${mpi[@]}" --op ordered_tree --compare ring --min 64KiB --max 64MiB
    if [[ -n $python ]]; then
      check "all_reduce beside Gloo, $ranks" 120 env PEAL_PYTHON="$python" \
        "$root/tests/bench/collectives_against_gloo.sh" --ranks "$ranks" --peal "$root/peal"
    else
      did_not_run "all_reduce beside Gloo, $ranks" "no Python here"
    fi
  done
}

# Kernels of our own: those of NVIDIA's libraries take minutes to check.
run_sanitizer() {
  local tool sanitizer filter="*Convolution*:*MatrixProduct*:SameBits.*:*Reorder*"
  sanitizer=$(find_sanitizer)
  for tool in memcheck racecheck; do
    if [[ -z $sanitizer ]]; then
      did_not_run "$tool" "no compute-sanitizer on PATH or in /usr/local/cuda"
      continue
    fi
    on_device "$tool" 240 env PEAL_TEST_EXACT=1 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$root/bin/kernels_test" "--gtest_filter=-$(filter_of kernels_test):$filter"
  done
}

# ---- run: the report ---------------------------------------------------------------------------

show_figures() {
  local name
  for name in "training" "bench" "bench of PyTorch" "CNN beside PyTorch" "CNN without graphs beside PyTorch" \
    "training beside PyTorch" {"all_reduce of","ordered tree of","all_reduce beside Gloo,"}\ {2,4}; do
    [[ -s $logs/${name// /_}.log ]] || continue
    printf '\n## %s\n\n' "$name"
    cat "$logs/${name// /_}.log"
  done
  for name in "${failures[@]}"; do
    printf '\n## FAIL: %s\n\n```\n' "$name"
    grep -E '^\[  FAILED  \]' "$logs/${name// /_}.log" | sort -u | head -n 40
    grep -v '^\[ *\(OK\|RUN\) ' "$logs/${name// /_}.log" | head -n 60
    echo ...
    tail -n 25 "$logs/${name// /_}.log"
    printf '```\n'
  done
}

parse_run() {
  local by_default="device kernels graph bits comm train bench collectives"
  local known="$by_default sanitizer"
  read -ra groups <<< "$by_default"
  report='' device=0 root=$here
  local given=
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --only | --device | --report) [[ $# -ge 2 ]] || fail "$1 needs a value" ;;
    esac
    case "$1" in
      --only) IFS=, read -ra groups <<< "$2"; shift ;;
      --device) device=$2; shift ;;
      --report) report=$2; shift ;;
      --sanitizer) groups+=(sanitizer) ;;
      -*) fail "unknown argument '$1'" ;;
      *) [[ -z $given ]] || fail "one FOLDER, not '$given' and '$1'"; given=$1 ;;
    esac
    shift
  done
  [[ -z $given ]] || root=$(cd "$given" && pwd) || fail "no folder $given"
  local group
  for group in "${groups[@]}"; do
    [[ " $known " == *" $group "* ]] || fail "unknown group '$group'; allowed: ${known// /, }"
  done
  [[ $device =~ ^[0-9]$ ]] || fail "--device wants a number, got '$device'"
  [[ -x $root/bin/kernels_test ]] || fail "$root is no unpacked archive of 'run.sh pack'"
}

run() {
  parse_run "$@"
  if ! nvidia-smi -L 2> /dev/null | grep -q '^GPU [0-9]'; then
    echo "did not run: nvidia-smi shows no GPU here, so nothing was tested"
    exit 77
  fi
  report=${report:-$root/report.md}
  logs=$root/logs
  mkdir -p "$logs" && rm -f "$logs"/*
  python=$(find_python)
  export PATH="$root/bin:$PATH" PEAL_TEST_GOLDEN="$root/golden"
  [[ $(id -u) -ne 0 ]] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  describe_machine > "$logs/machine.md"
  tee "$report" < "$logs/machine.md"
  printf '| check | result | s | what it says | command |\n|---|---|---:|---|---|\n' >> "$report"
  local group summary
  for group in "${groups[@]}"; do "run_$group"; done
  show_figures >> "$report"
  summary="$passed passed, $failed failed, $not_run did not run"
  printf '\n%s\n' "$summary" >> "$report"
  echo "report: $report"
  echo "$summary"
  [[ $failed == 0 && $not_run == 0 && $passed -gt 0 ]]
}

command=${1:-}
[[ $# -eq 0 ]] || shift
case "$command" in
  pack) pack "$@" ;;
  run) run "$@" ;;
  --help | -h) usage ;;
  *) usage >&2; fail "the first word must be pack or run, not '$command'" ;;
esac
