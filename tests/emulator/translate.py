#!/usr/bin/env python3
"""Makes C++ of a CUDA source, for the emulated GPU (README.md). Only what C++ cannot express is
written anew; every other line stays, under its number.

  kernel<4><<<blocks, threads, shared, stream>>>(x, n);   a launch, by way of launch.h
  extern __shared__ float room[];                         memory of a block, by way of shared.h
  __shared__ float sums[32];

usage: translate.py FROM TO, in the folder from which FROM shall be named
"""

import re
import sys
from pathlib import Path

DYNAMIC = re.compile(r"\bextern\s+__shared__\s+([\w:]+)\s+(\w+)\s*\[\s*\]\s*;")
STATIC = re.compile(r"\b__shared__\s+([^;]+);")
DECLARED = re.compile(r"(\w+)\s*(?:\[[^;]*?\]\s*)*$")


class Untranslated(Exception):
    """A place that this program does not understand; its text and offset."""


def closing(text, at):
    """The offset of the parenthesis that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise Untranslated("a parenthesis that nothing closes", at)


def callee_start(text, end):
    """Where `name` or `name<arguments>`, which ends before `end`, begins."""
    i = end
    if text[i - 1] == ">":
        depth = 0
        while i > 0:
            i -= 1
            depth += {">": 1, "<": -1}.get(text[i], 0)
            if depth == 0:
                break
    start = i
    while start > 0 and (text[start - 1].isalnum() or text[start - 1] in "_:"):
        start -= 1
    if start == i:
        raise Untranslated("a launch of something without a name", end)
    return start


def launches(text):
    """Every launch becomes a call that has what runs in each thread as a function."""
    while (at := text.find("<<<")) >= 0:
        name_end = len(text[:at].rstrip())
        start = callee_start(text, name_end)
        callee = text[start:name_end]
        closed = text.find(">>>", at)
        opened = text.find("(", closed)
        if closed < 0 or text[closed + 3:opened].strip():
            raise Untranslated("a launch without arguments", at)
        end = closing(text, opened)
        name = re.match(r"[\w:]+", callee).group()
        call = (f'::peal::emulator::launch("{name}", [=] {{ {callee}{text[name_end:at]}'
                f"{text[opened:end + 1]}; }}, {text[at + 3:closed]})")
        text = text[:start] + call + text[end + 1:]
    return text


def shared(text):
    """Memory of a block is the emulator's, or static and made anew for each block."""
    text = DYNAMIC.sub(r"\1* const \2 = ::peal::emulator::dynamic_shared<\1>();", text)

    def declaration(match):
        names = [DECLARED.search(part) for part in re.split(r",(?![^<\[]*[>\]])", match.group(1))]
        if None in names:
            raise Untranslated("a declaration of shared memory", match.start())
        anew = " ".join(f"PEAL_FORGET_IN_A_NEW_BLOCK({name.group(1)});" for name in names)
        return f"static {match.group(1)}; {anew}"

    return STATIC.sub(declaration, text)


def without_comments(text):
    """Comments blanked out, so that what they show is not translated."""
    return re.sub(r"//[^\n]*", "", text)


def main():
    source, target = map(Path, sys.argv[1:])
    text = without_comments(source.read_text())
    try:
        text = shared(launches(text))
    except Untranslated as error:
        what, at = error.args
        sys.exit(f"{source}:{text.count(chr(10), 0, at) + 1}: {what}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f'#line 1 "{source}"\n{text}')


if __name__ == "__main__":
    main()
