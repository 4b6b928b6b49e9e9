"""Same job, same bits, any rank count: one --hash line for 1, 2, 3, 4 and 8 ranks."""
import unittest

from peal_cli import CPU_HAS_BF16, DATA, PealTest, run


class Invariance(PealTest):
    def hashes(self, overrides, ranks=(0, 1, 2, 3, 4, 8), local=(), limit=600):
        job = self.job(limit=limit)
        found = {}
        for n in ranks:
            run = self.folder / f"run-{n}"
            self.train(job, n, [f"run.directory={run}", *overrides], ["--fresh"])
            found[f"mpirun {n}"] = self.hash(run)
        for n in local:
            run = self.folder / f"local-{n}"
            self.train(job, 0, [f"run.directory={run}", *overrides], ["--fresh", "--local", str(n)])
            found[f"local {n}"] = self.hash(run)
        return found

    def check(self, overrides, **options):
        found = self.hashes(overrides, **options)
        self.assertEqual(len(set(found.values())), 1, found)
        return next(iter(found.values()))

    def test_dropout_shuffling_and_a_ragged_batch(self):
        # 600 records: nine batches of 64 and one of 24, so that whole virtual ranks run empty.
        self.check([], local=(1, 2, 3, 5, 8))

    def test_threads_of_a_rank(self):
        # Virtual ranks that one process runs side by side add up to the same bits.
        self.check(["parallel.threads=3"], ranks=(0, 2, 3))

    def test_batch_norm(self):
        self.check(["model.cnn.batch_norm=true"], ranks=(1, 2, 3, 4, 8), local=(3,))

    def test_clipping(self):
        clipped = self.check(["train.clip_norm=0.5"], ranks=(1, 2, 3, 4, 8), local=(3,))
        self.assertNotEqual(clipped, self.check(["train.clip_norm=0"], ranks=(1,)))

    def test_what_is_logged_changes_nothing(self):
        # A step that is logged also computes the norm; so does one that is never clipped.
        found = {self.check(overrides, ranks=(1, 2)) for overrides in (
            ["run.log_every_steps=1"], ["run.log_every_steps=1000"], ["train.clip_norm=1000000"])}
        self.assertEqual(len(found), 1, found)

    def test_activations_of_bf16(self):
        norm = "model.cnn.batch_norm=true"
        if not CPU_HAS_BF16:
            for ranks in (0, 2):
                result = run(["train", self.job(), "--set", "train.precision=BF16"], ranks)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn("train.precision: BF16 is not there on this CPU", result.stderr)
            return
        self.assertNotEqual(self.check(["train.precision=BF16", norm], ranks=(1, 2, 3, 4)),
                            self.check([norm], ranks=(1,)))

    def test_accumulation_and_augmentation(self):
        crop = "data.preprocess[1].random_crop.padding=2"
        flip = "data.preprocess[2].random_flip.probability=0.5"
        self.check(["train.accumulate_steps=2", crop, flip], ranks=(1, 3, 4))

    def test_virtual_ranks_that_are_no_power_of_two(self):
        seven = ["parallel.virtual_ranks=7", "train.global_batch=56"]
        self.check(seven, ranks=(1, 2, 3, 7), local=(5,))

    def test_buckets_of_any_size(self):
        small = self.check(["parallel.bucket_size=4KiB"], ranks=(1, 3))
        self.assertEqual(small, self.check(["parallel.bucket_size=64MiB"], ranks=(3,)))

    def test_another_seed_gives_other_bits(self):
        self.assertNotEqual(self.check([], ranks=(1,)), self.check(["train.seed=4"], ranks=(1,)))

    def test_repeatable_repeats(self):
        job = self.job()
        found = set()
        for attempt in range(3):
            run = self.folder / f"repeat-{attempt}"
            self.train(job, 3, [f"run.directory={run}", "parallel.reduction=REPEATABLE"])
            found.add(self.hash(run))
        self.assertEqual(len(found), 1, found)

    def test_evaluation_does_not_depend_on_ranks(self):
        job = self.job()
        test = [f"data.test.idx.images={DATA}/mnist/t10k-images-idx3-ubyte.gz",
                f"data.test.idx.labels={DATA}/mnist/t10k-labels-idx1-ubyte.gz",
                "data.test.limit=1000"]
        found = set()
        for n in (1, 2, 3):
            run = self.folder / f"eval-{n}"
            self.train(job, n, [f"run.directory={run}", *test])
            last = [m for m in self.metrics(run) if "test_loss" in m][-1]
            found.add((last["test_loss"], last["test_accuracy"]))
        self.assertEqual(len(found), 1, found)


if __name__ == "__main__":
    unittest.main()
