"""`peal bench overlap`: what it prints agrees with itself, on any number of ranks; what it refuses."""
import json
import re
import unittest

from peal_cli import PealTest, run, run_failing

INPUT = 2
FIELDS = {"ranks", "backend", "virtual_ranks", "lanes", "global_batch", "reduction",
          "gradient_bytes", "bucket_size", "rounds", "steps_per_round", "compute_ms",
          "overlapped_ms", "not_overlapped_ms", "hidden_share", "speedup"}


class Overlap(PealTest):
    def bench(self, *arguments, ranks=0):
        done = run(["bench", "overlap", self.job(), "--rounds", 3, "--steps", 2, *arguments], ranks)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertFalse((self.folder / "run").exists(), "nothing is written")
        return done.stdout

    def test_json(self):
        for flags, ranks, n in ((["--local", 2], 0, 2), ([], 2, 2), ([], 3, 3)):
            with self.subTest(flags=flags, ranks=ranks):
                line = json.loads(self.bench("--json", *flags, ranks=ranks))
                self.assertEqual(set(line), FIELDS)
                self.assertEqual((line["ranks"], line["virtual_ranks"]), (n, 8))
                self.assertEqual((line["rounds"], line["steps_per_round"]), (3, 2))
                compute, overlapped, held = (line[f"{mode}_ms"] for mode in
                                             ("compute", "overlapped", "not_overlapped"))
                self.assertGreater(compute, 0)
                self.assertAlmostEqual(line["speedup"], held / overlapped, 9)
                if held > compute:
                    self.assertAlmostEqual(line["hidden_share"],
                                           (held - overlapped) / (held - compute), 9)
                else:
                    self.assertIsNone(line["hidden_share"])

    def test_table(self):
        said = self.bench("--set", "parallel.bucket_size=64K", ranks=2)
        self.assertIn("2 ranks, backend host, global batch 64, gradients ", said)
        self.assertIn("buckets of 64K", said)
        for mode in ("compute only", "overlapped", "not overlapped"):
            self.assertRegex(said, rf"(?m)^{mode} +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d$")
        self.assertRegex(said, r"hidden: (-?\d+%; overlapped training is \d\.\d+ times as fast|unknown)")
        self.assertEqual(len(re.findall(r"(?m)^#", said)), 2)

    def test_wrong_input(self):
        for flags, ranks, expected in (([], 0, "at least 2"), (["--local", 1], 0, "at least 2"),
                                       (["--rounds", 0], 2, "--rounds"),
                                       (["--set", "parallel.bucket_size=12.5QB"], 2, "such as 128MB"),
                                       (["--local", 9], 0, "8 virtual ranks")):
            with self.subTest(flags=flags):
                done, codes = run_failing(["bench", "overlap", self.job(), *flags], ranks)
                self.assertEqual(done.returncode, INPUT, done.stdout + done.stderr)
                self.assertEqual(codes, [INPUT] * ranks)
                self.assertIn(expected, done.stderr)


if __name__ == "__main__":
    unittest.main()
