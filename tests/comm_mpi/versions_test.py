"""Ranks whose Peal or MPI library differ in version: every rank is told which rank it is.

usage: versions_test.py PROGRAM PROGRAM_OF_ANOTHER_VERSION LIBRARY_OF_ANOTHER_MPI
"""
import os
import re
import subprocess
import sys
import unittest

PROGRAM, OTHER_PROGRAM, OTHER_MPI = sys.argv[1:4]
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
               # Open MPI itself leaks; a preloaded library comes before the sanitizer's own.
               "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}


def mpirun(*parts):
    """Each part: the words of one program in the launch."""
    words = ["mpirun", "--oversubscribe"]
    for part in parts:
        words += [*part, ":"]
    return subprocess.run(words[:-1], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)


class Versions(unittest.TestCase):
    def expect(self, done, codes, pattern):
        self.assertEqual(re.findall(r"^code (\d)$", done.stdout, re.M), codes,
                         done.stdout + done.stderr)
        self.assertEqual(len(re.findall(pattern, done.stderr)), len(codes), done.stderr)

    def test_the_same_version(self):
        done = mpirun(["-np", "3", PROGRAM])
        self.assertEqual(re.findall(r"^code (\d)$", done.stdout, re.M), ["0"] * 3, done.stderr)

    def test_another_peal(self):
        done = mpirun(["-np", "2", PROGRAM], ["-np", "1", OTHER_PROGRAM])
        self.expect(done, ["4"] * 3,
                    r'rank 2 \(.+\): Peal\'s comm layer is "0\.0\.9 \(sources [0-9a-f]{12}, compiler '
                    r'.+" but rank 0 \(.+\) has "0\.1\.\d+ \(sources [0-9a-f]{12}, .+"; it must be '
                    r"the same on every rank")

    def test_the_minority_is_named(self):
        done = mpirun(["-np", "1", PROGRAM], ["-np", "2", OTHER_PROGRAM])
        self.expect(done, ["4"] * 3,
                    r'rank 0 \(.+\): Peal\'s comm layer is "0\.1\..+ but rank 1 .+"0\.0\.9')

    def test_another_mpi(self):
        done = mpirun(["-np", "1", PROGRAM], ["-np", "1", "-x", f"LD_PRELOAD={OTHER_MPI}", PROGRAM])
        self.expect(done, ["4"] * 2,
                    r'rank 1 \(.+\): the MPI library is "Open MPI v9\.9\.9" but rank 0 \(.+\) has '
                    r'"Open MPI v[\d.]+"')


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
