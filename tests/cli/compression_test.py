"""Gradients compressed on their way: the same bits at any number of ranks where a method allows it,
also for a run that is killed and goes on, and what is said where it does not."""
import unittest

from peal_cli import PealTest, kill_tree, run, start

INVARIANT = {"bf16": "parallel.compression.bf16={}",
             "f16": "parallel.compression.f16={}",
             "power_sgd": "parallel.compression.power_sgd.rank=3"}
INT8 = ["parallel.compression.int8={}", "parallel.reduction=REPEATABLE"]
LONG = {"limit": 2000, "epochs": 8}  # far from its end when it has a checkpoint


class Compression(PealTest):
    def trained(self, name, n, overrides, flags=("--fresh",), **job):
        directory = self.folder / name
        self.train(self.job(**job), n, [f"run.directory={directory}", *overrides], flags)
        return self.hash(directory)

    def one_hash(self, overrides, ranks):
        found = {n: self.trained(f"run-{n}", n, overrides) for n in ranks}
        self.assertEqual(len(set(found.values())), 1, found)
        return found[ranks[0]]

    def test_same_bits_at_any_number_of_ranks(self):
        hashes = {"none": self.trained("none", 1, [])}
        for name, override in INVARIANT.items():
            with self.subTest(compression=name):
                hashes[name] = self.one_hash([override], (0, 1, 2, 3, 4))
        self.assertEqual(len(set(hashes.values())), 4, hashes)

    def test_virtual_ranks_that_are_no_power_of_two(self):
        six = ["parallel.virtual_ranks=6", "train.global_batch=48", "train.accumulate_steps=2",
               "train.clip_norm=0.5"]
        for name, override in INVARIANT.items():
            with self.subTest(compression=name):
                one = self.one_hash([override, *six], (1, 4))
                threads = self.trained("threads", 2, [override, *six, "parallel.threads=3"])
                self.assertEqual(one, threads)

    def test_buckets_of_any_size(self):
        for name, override in INVARIANT.items():
            with self.subTest(compression=name):
                found = {self.trained(size, 3, [override, f"parallel.bucket_size={size}"])
                         for size in ("4KiB", "64MiB")}
                self.assertEqual(len(found), 1, found)

    def killed_and_resumed(self, name, overrides, before, after):
        """The hash of a run that is killed once it has a checkpoint and goes on on other ranks."""
        directory = self.folder / name
        path = self.job("killed", extra="checkpoint { every_steps: 5 }", **LONG)
        words = ["train", path, "--set", f"run.directory={directory}"]
        for override in overrides:
            words += ["--set", override]
        process = start(words, before)
        try:
            checkpoints = directory / "checkpoints"
            while not any(checkpoints.glob("step-*/manifest.pb")):
                self.assertIsNone(process.poll(), "ended before it could be killed")
        finally:
            kill_tree(process)
            process.communicate()
        self.assertLess(len(self.metrics(directory)), LONG["epochs"] * 32 // 5)
        said = self.train(path, after, [f"run.directory={directory}", *overrides])
        self.assertIn("going on after step", said)
        return self.hash(directory)

    def test_killed_and_resumed_on_other_ranks(self):
        for name, override in INVARIANT.items():
            with self.subTest(compression=name):
                want = self.trained("whole", 2, [override], **LONG)
                self.assertEqual(self.killed_and_resumed(name, [override], 2, 3), want)

    def test_int8_repeats_and_resumes(self):
        want = self.trained("whole", 3, INT8, **LONG)
        self.assertEqual(self.trained("again", 3, INT8, **LONG), want)
        self.assertEqual(self.killed_and_resumed("same", INT8, 3, 3), want)
        # On other ranks it goes on with all that was left over, without a promise of bits.
        self.assertNotEqual(self.killed_and_resumed("other", INT8, 3, 2), want)
        self.assertAlmostEqual(self.loss("whole"), self.loss("other"), delta=0.05)

    def loss(self, name):
        return self.metrics(self.folder / name)[-1]["loss"]

    def test_every_reduction_trains(self):
        longer = {"limit": 2000, "epochs": 4}
        self.trained("none", 3, [], **longer)
        self.assertLess(self.loss("none"), 1.5)
        for reduction in ("REPEATABLE", "FAST"):
            for name, override in (*INVARIANT.items(), ("int8", INT8[0])):
                with self.subTest(reduction=reduction, compression=name):
                    overrides = [override, f"parallel.reduction={reduction}"]
                    first = self.trained("first", 3, overrides, **longer)
                    self.assertAlmostEqual(self.loss("first"), self.loss("none"), delta=0.1)
                    if reduction == "REPEATABLE":
                        self.assertEqual(self.trained("second", 3, overrides, **longer), first)

    def test_the_effective_job_says_it(self):
        path = self.job()
        self.train(path, 0, [INVARIANT["power_sgd"], "train.max_steps=1"])
        text = (self.folder / "run/job.textproto").read_text()
        self.assertRegex(text, r"compression \{\s+power_sgd \{\s+rank: 3\s+\}")

    def test_a_checkpoint_of_another_compression_is_refused(self):
        path = self.job()
        self.train(path, 1, [INVARIANT["bf16"], "train.max_steps=3"])
        result = run(["train", path, "--set", INVARIANT["f16"], "--set", "train.max_steps=3"])
        self.assertEqual(result.returncode, 2)
        self.assertIn("another job", result.stderr)
        self.assertIn("bf16", result.stderr)


if __name__ == "__main__":
    unittest.main()
