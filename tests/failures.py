#!/usr/bin/env python3
"""What failed, in few lines, for the end of a long log.

usage: failures.py STAGE=FILE...

FILE is the JUnit file of a stage's tests (.xml) or, of a build that failed, its output (.log).
Prints the name of every test that failed or did not run and the end of what it wrote, at most LINES
lines in all; nothing if nothing failed.
"""
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

LINES = 50  # in all
TAIL = 25  # of one test
WIDTH = 160  # of a line
ERROR = re.compile(r"\berror\b|undefined reference|^FAILED:|No space left|Killed", re.IGNORECASE)


def failed_tests(path):
    """[(name, lines of its output)] of the tests in a JUnit file that did not pass."""
    failed = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        reasons = [tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None]
        if not reasons and case.get("status") == "run":
            continue
        reason = case.find(reasons[0]).get("message") if reasons else None
        output = (case.findtext("system-out") or "").rstrip().splitlines()
        seconds = float(case.get("time") or 0)
        failed.append((f"{case.get('name')} ({reason or case.get('status')}, {seconds:.1f} s)", output))
    return failed


def build_errors(path):
    """The first lines of a build's output that tell of an error, each with the one after it."""
    lines = path.read_text(errors="replace").splitlines()
    kept = []
    for i, line in enumerate(lines):
        if ERROR.search(line) and len(kept) < TAIL:
            kept += [at for at in (i, i + 1) if at < len(lines) and at not in kept]
    return [lines[i] for i in kept] or lines[-TAIL:]


def report(failures):
    """Lines on [(name, output)]: first the names, then the end of each output, all equally long."""
    if not failures:
        return []
    named = failures[: LINES // 2]
    lines = ["failed:"] + [f"  {name}" for name, _ in named]
    if len(failures) > len(named):
        lines.append(f"  and {len(failures) - len(named)} more")
    room = LINES - len(lines)
    fits = [tail for tail in range(8, TAIL + 1)
            if sum(1 + min(tail, len(output)) for _, output in named) <= room]
    tail = max(fits, default=8)
    for name, output in named:
        if len(lines) + 1 + min(tail, len(output)) > LINES:
            break  # fewer lines would tell nothing
        lines += [f"-- {name}"] + output[-tail:]
    return [line[:WIDTH] for line in lines]


def main(words):
    failures = []
    for word in sorted(words, key=lambda word: not word.endswith(".log")):  # builds first
        stage, _, path = word.partition("=")
        path = pathlib.Path(path)
        if path.suffix == ".log":
            failures.append((f"{stage}: build", build_errors(path)))
        else:
            failures += [(f"{stage}: {name}", output) for name, output in failed_tests(path)]
    for line in report(failures):
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
