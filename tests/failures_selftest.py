#!/usr/bin/env python3
"""Checks failures.py on a project whose tests fail in every way, and on builds that fail."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("failures.py")
TESTS = """
cmake_minimum_required(VERSION 3.22)
project(Toy NONE)
enable_testing()
add_test(NAME good COMMAND true)
add_test(NAME loud COMMAND sh -c "seq 1 100; echo the cause; exit 1")
add_test(NAME slow COMMAND sleep 5)
set_tests_properties(slow PROPERTIES TIMEOUT 1)
add_test(NAME absent COMMAND no-such-program)
add_test(NAME skipped COMMAND sh -c "exit 77")
set_tests_properties(skipped PROPERTIES SKIP_RETURN_CODE 77)
foreach(i RANGE 1 ${MORE})
  add_test(NAME more${i} COMMAND sh -c "seq 1 100; exit 1")
endforeach()
"""


class Failures(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def report(self, *words):
        done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.splitlines()

    def run_tests(self, more, *arguments):
        (self.folder / "CMakeLists.txt").write_text(TESTS)
        build = self.folder / "build"
        run = {"capture_output": True, "check": False, "cwd": self.folder}
        subprocess.run(["cmake", "-S", ".", "-B", build, f"-DMORE={more}"], **run)
        junit = self.folder / "tests.xml"
        subprocess.run(["ctest", "--test-dir", build, "--output-junit", junit, *arguments], **run)
        return self.report(f"default={junit}")

    def test_every_way_to_fail(self):
        lines = self.run_tests(1, "-E", "more")
        names = [line.split()[1] for line in lines if line.startswith("  default:")]
        self.assertEqual(sorted(names), ["absent", "loud", "skipped", "slow"])
        self.assertIn("the cause", lines)
        self.assertIn("80", lines)  # 25 lines

    def test_a_hundred_fail(self):
        lines = self.run_tests(100, "-R", "more")
        self.assertLessEqual(len(lines), 50)
        self.assertIn("  and 75 more", lines)

    def test_nothing_fails(self):
        self.assertEqual(self.run_tests(1, "-R", "good"), [])

    def test_build(self):
        log = self.folder / "asan.log"
        log.write_text("[1/2] fine\na.cpp:3:1: error: wrong\n  int x y;\n" + "[2/2] more\n" * 100)
        lines = self.report(f"asan={log}")
        self.assertEqual(lines[1:], ["  asan: build", "-- asan: build", "a.cpp:3:1: error: wrong",
                                     "  int x y;"])
        log.write_text("nothing known\n" * 100)
        self.assertEqual(self.report(f"asan={log}")[-1], "nothing known")


if __name__ == "__main__":
    unittest.main()
