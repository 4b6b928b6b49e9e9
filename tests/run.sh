#!/usr/bin/env bash
# Installs what is missing, builds and runs every test: the optimised build, then the same suite
# under the address and undefined-behaviour sanitizers, then the threads of comm and data under the
# thread sanitizer. Each is built while the tests of the one before run. What failed is repeated at
# the end; the last line is "N passed, N failed" over all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'EOF'
usage: tests/run.sh [--quick]
  --quick  the optimised build only, without the sanitizers
EOF
}

quick=false
for argument in "$@"; do
  case "$argument" in
    --quick) quick=true ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; echo "tests/run.sh: unknown argument '$argument'" >&2; exit 2 ;;
  esac
done

export CCACHE_DEPEND=1  # a file that is not in the cache is read once, not twice
exec 2>&1  # one stream, so that the last line is the last
jobs=2
passed=0
failed=0
stages=()
record=()  # what tests/failures.py reads
records=$(mktemp -d)
builder=  # the process that builds
trap '[[ -z $builder ]] || kill -- "-$builder" 2> /dev/null; rm -rf "$records"' EXIT

# The number behind the first `name="..."` of a JUnit file.
junit_number() {
  grep -o -m1 "\\b$2=\"[0-9]*\"" "$1" | head -n1 | grep -o '[0-9]*'
}

count_stage() {
  local name=$1 stage_passed=$2 stage_failed=$3 seconds=$4
  passed=$((passed + stage_passed))
  failed=$((failed + stage_failed))
  stages+=("$(printf '%-8s %5d passed, %d failed, %d s' "$name" "$stage_passed" "$stage_failed" "$seconds")")
}

# start_build PRESET TARGET...: configures and builds a preset beside the tests that run, many of which
# mostly wait: with what they leave, and never ahead of one that wakes up.
start_build() {
  local preset=$1 words
  shift
  words=(cmake --build --preset "$preset")
  [[ $# -eq 0 ]] || words+=(--target "$@")
  set -m  # a process group of its own, which can be ended as one
  {
    chrt --idle --pid 0 "$BASHPID" || renice -n 19 -p "$BASHPID"
    cmake --preset "$preset" --log-level=NOTICE && "${words[@]}"
  } > "$records/$preset.log" 2>&1 < /dev/null &
  builder=$!
  set +m
}

# Waits for that build, shows its output, and fails as it does.
await_build() {
  local pid=$builder status=0
  tail -n +1 -f -s 0.2 --pid="$pid" "$records/$1.log"
  wait "$pid" || status=$?
  builder=
  return "$status"
}

# stage PRESET NEXT CTEST_ARGUMENTS...: tests the preset that is being built, and meanwhile builds
# the NEXT one: words of start_build. A build that fails counts as one failed test; so does a test
# that did not run.
stage() {
  local preset=$1 next=$2 built=true start=$SECONDS junit total bad counter
  shift 2
  printf '\n== %s: build\n' "$preset"
  await_build "$preset" || built=false
  # shellcheck disable=SC2086  # a list of words
  [[ -z $next ]] || start_build $next
  if ! $built; then
    record+=("$preset=$records/$preset.log")
    count_stage "$preset" 0 1 $((SECONDS - start))
    return
  fi
  printf '\n== %s: test\n' "$preset"
  junit=$records/$preset.xml
  ctest --preset "$preset" --output-on-failure --no-tests=error -j "$jobs" \
    --test-output-size-failed 2000000 --output-junit "$junit" "$@" || true
  if [[ ! -s $junit ]]; then
    echo "ctest left no record of its tests" | tee "$records/$preset.log"
    record+=("$preset=$records/$preset.log")
    count_stage "$preset" 0 1 $((SECONDS - start))
    return
  fi
  record+=("$preset=$junit")
  total=$(junit_number "$junit" tests || echo 0)
  bad=0
  for counter in failures skipped disabled; do
    bad=$((bad + $(junit_number "$junit" "$counter" || echo 0)))
  done
  [[ $total -gt 0 ]] || bad=1
  count_stage "$preset" $((total > bad ? total - bad : 0)) "$bad" $((SECONDS - start))
}

# The real TensorBoard, which reads the event files that Peal writes.
make_venv() {
  local venv=build/venv
  if cmp -s tests/requirements.txt "$venv/installed.txt"; then
    return
  fi
  python3 -m venv --clear "$venv" &&
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt &&
    cp tests/requirements.txt "$venv/installed.txt"
}

cluster/install_deps.sh --tests
make_venv || echo "tests/run.sh: no TensorBoard in build/venv; its test will fail" >&2

start_build default
if $quick; then
  stage default ""
else
  stage default asan
  # Left out of the slow build: what takes minutes there and tests no more code (label slow).
  # MPI is not built for the thread sanitizer: only what runs on threads.
  stage asan "tsan comm_test data_test" --label-exclude slow
  stage tsan "" --tests-regex '^(comm|data)\.'
fi

# Last, so that whoever sees only the end of this output sees what failed.
printf '\n'
tests/failures.py "${record[@]}" || true
printf '%s\n' "${stages[@]}"
printf '%d passed, %d failed\n' "$passed" "$failed"
[[ $failed -eq 0 && $passed -gt 0 ]]
