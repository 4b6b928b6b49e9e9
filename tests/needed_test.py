#!/usr/bin/env python3
"""Which shared libraries a program cannot start without, as its ELF file lists them.

usage: needed_test.py PROGRAM FORBIDDEN...     FORBIDDEN: how a library's name may not begin
"""

import re
import subprocess
import sys


def main():
    program, forbidden = sys.argv[1], tuple(sys.argv[2:])
    listing = subprocess.run(["readelf", "--dynamic", "--wide", program], capture_output=True,
                             text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", listing)
    wrong = [name for name in needed if name.startswith(forbidden)]
    print(f"{program} needs {', '.join(needed)}; not allowed: {', '.join(wrong) or 'none'}")
    return 1 if wrong or not needed else 0


if __name__ == "__main__":
    sys.exit(main())
