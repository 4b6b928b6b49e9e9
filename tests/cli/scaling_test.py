"""`peal bench scaling`: what it prints agrees with itself, over threads and MPI; what it refuses."""
import json
import re
import unittest

from peal_cli import PealTest, run, run_failing

INPUT = 2


class Scaling(PealTest):
    def bench(self, *arguments, ranks=0):
        done = run(["bench", "scaling", self.job(), "--rounds", 2, "--steps", 2, *arguments], ranks)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertFalse((self.folder / "run").exists(), "nothing is written")
        return done.stdout

    def test_measured(self):
        for flags, ranks, sizes in ((["--local", 3], 0, [1, 2, 3]), ([], 4, [1, 2, 4])):
            with self.subTest(flags=flags, ranks=ranks):
                lines = [json.loads(line) for line in
                         self.bench("--json", *flags, ranks=ranks).splitlines()]
                self.assertEqual([line["ranks"] for line in lines], sizes)
                for line in lines:
                    self.assertEqual(line["unit"], "rank")
                    self.assertEqual(line["global_batch"], 64 * line["ranks"])
                    self.assertAlmostEqual(line["hidden_ms"] + line["exposed_ms"],
                                           line["sums_ms"], 6)
                    self.assertAlmostEqual(line["compute_ms"] + line["exposed_ms"],
                                           line["step_ms"], 6)
                    self.assertAlmostEqual(line["samples_per_second"] * line["step_ms"] / 1e3,
                                           line["global_batch"], 6)
                    self.assertAlmostEqual(line["efficiency"], line["samples_per_second"] /
                                           line["ranks"] / lines[0]["samples_per_second"], 6)

    def test_model(self):
        lines = [json.loads(line) for line in self.bench(
            "--json", "--model", "--links", "1,100", "--up-to", 64, ranks=2).splitlines()]
        for line in lines[:2]:
            self.assertAlmostEqual(line["off"], line["model_ms"] / line["step_ms"] - 1, 9)
        # One rank sums nothing.
        self.assertAlmostEqual(lines[0]["model_ms"], lines[0]["compute_ms"], 9)
        self.assertGreater(lines[1]["model_sums_ms"], 0)
        forecast = lines[2:]
        self.assertEqual([(line["forecast_ranks"], line["gigabits"]) for line in forecast],
                         [(n, link) for n in (8, 16, 32, 64) for link in (1, 100)])
        for slow, fast in zip(forecast[::2], forecast[1::2]):
            self.assertLess(fast["sums_ms"], slow["sums_ms"])
            self.assertLessEqual(fast["step_ms"], slow["step_ms"])
        for fewer, more in zip(forecast, forecast[2:]):
            self.assertLess(fewer["sums_ms"], more["sums_ms"])
        for line in forecast:
            self.assertAlmostEqual(line["efficiency"],
                                   lines[0]["compute_ms"] / line["step_ms"], 6)

    def test_table(self):
        said = self.bench("--model", "--up-to", 16, ranks=2)
        self.assertIn("each rank does the job's batch of 64; gradients ", said)
        self.assertRegex(said, r"(?m)^ +2 +2 +\d+\.\d\d .* +\d+\.\d% +\d+\.\d\d +[-+]\d+\.\d%$")
        self.assertRegex(said, r"(?m)^ +16( +\d+\.\d\d ms +\d+\.\d%){3} *$")
        self.assertEqual(len(re.findall(r"(?m)^#", said)), 3)

    def test_wrong_input(self):
        bf16 = ["--set", "parallel.compression.bf16={}"]
        for flags, ranks, expected in (([], 0, "1 rank is no scale"),
                                       (["--steps", 0], 2, "--steps"),
                                       (["--model", "--links", "0"], 2, "--links"),
                                       (["--model", "--up-to", 4], 2, "--up-to"),
                                       (["--model", *bf16], 2, "parallel.compression"),
                                       (["--set", "train.global_batch=63"], 2, "global_batch")):
            with self.subTest(flags=flags):
                done, codes = run_failing(["bench", "scaling", self.job(), *flags], ranks)
                self.assertEqual(done.returncode, INPUT, done.stdout + done.stderr)
                self.assertEqual(codes, [INPUT] * ranks)
                self.assertIn(expected, done.stderr)


if __name__ == "__main__":
    unittest.main()
