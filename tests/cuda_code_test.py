#!/usr/bin/env python3
"""For which GPUs an object file holds code: reads the fat binaries in it, as the CUDA compiler
writes them (no tool of the toolkit does that everywhere it is installed).

usage: cuda_code_test.py OBJECT WANTED...     WANTED: sm_80 (machine code) or compute_90 (PTX)
"""

import struct
import sys
from pathlib import Path

FAT_BINARY = struct.pack("<IH", 0xBA55ED50, 1)  # magic number, version
KINDS = {1: "compute", 2: "sm"}


def entries(data):
    """(kind, architecture) of every program in every fat binary."""
    at = data.find(FAT_BINARY)
    while at >= 0:
        header, size = struct.unpack_from("<HQ", data, at + 6)
        end, entry = at + header + size, at + header
        while entry < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", data, entry)
            architecture, = struct.unpack_from("<I", data, entry + 28)
            yield f"{KINDS.get(kind, kind)}_{architecture}"
            entry += entry_header + entry_size
        at = data.find(FAT_BINARY, end)


def main():
    found = set(entries(Path(sys.argv[1]).read_bytes()))
    wanted = set(sys.argv[2:])
    print(f"found {', '.join(sorted(found))}; wanted {', '.join(sorted(wanted))}")
    return 0 if found == wanted else 1


if __name__ == "__main__":
    sys.exit(main())
