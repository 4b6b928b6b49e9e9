#!/usr/bin/env bash
# Lets libFuzzer look for bytes that break the parsers, each target for some time on one core. What it
# learns stays in build-fuzz/learnt, so that a later run goes on from there; what broke a target is
# named, and belongs into tests/fuzz/corpus/<target> together with the repair.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
  cat <<'EOF'
usage: tests/fuzz/run.sh [--seconds N] [--only REGEX]
  --seconds N   for each target (60)
  --only REGEX  targets whose whole name matches, such as 'job|size'
Builds the preset fuzz (clang, address and undefined-behaviour sanitizers) first.
Examples:
  tests/fuzz/run.sh
  tests/fuzz/run.sh --seconds 600 --only 'job|probe'
EOF
}

seconds=60
only='.*'
while [[ $# -gt 0 ]]; do
  case "$1" in
    --seconds) seconds=${2:-}; shift ;;
    --only) only=${2:-}; shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; echo "tests/fuzz/run.sh: unknown argument '$1'" >&2; exit 2 ;;
  esac
  shift || break
done
if ! [[ $seconds =~ ^[1-9][0-9]{0,6}$ ]]; then
  echo "tests/fuzz/run.sh: --seconds: '$seconds'; allowed: whole numbers from 1 to 9999999" >&2
  exit 2
fi

targets=()
for source in tests/fuzz/*_fuzz.cpp; do
  name=$(basename "$source" _fuzz.cpp)
  [[ ! $name =~ ^($only)$ ]] || targets+=("$name")
done
if [[ ${#targets[@]} -eq 0 ]]; then
  echo "tests/fuzz/run.sh: --only: no target matches '$only'" >&2
  exit 2
fi

cmake --preset fuzz --log-level=NOTICE
cmake --build --preset fuzz --target "${targets[@]/%/_fuzz}"
learnt=build-fuzz/learnt
passed=0
failed=0
for name in "${targets[@]}"; do
  mkdir -p "$learnt/$name"
  if "build-fuzz/${name}_fuzz" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 \
    -print_final_stats=1 -artifact_prefix="$learnt/$name-" "$learnt/$name" \
    "tests/fuzz/corpus/$name" > "$learnt/$name.log" 2>&1; then
    passed=$((passed + 1))
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$learnt/$name.log") inputs, nothing found"
  else
    failed=$((failed + 1))
    echo "$name: FAILED, the end of $learnt/$name.log:"
    grep -aE 'ERROR|SUMMARY|runtime error|Test unit written' "$learnt/$name.log" | tail -n 5 || tail -n 5 "$learnt/$name.log"
  fi
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[[ $failed -eq 0 ]]
