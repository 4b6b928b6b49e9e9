"""train.loss_scaling: DYNAMIC with gradients that overflow f32 now and then. Pixels are made so large that
their weights' gradients come near its end; clipping makes steps of them all the same."""
import unittest

from peal_cli import CPU_HAS_BF16, PealTest, run

INPUT, NUMERIC = 2, 4

HUGE = ["data.preprocess[0].scale.factor=1e33", "train.clip_norm=1"]
SCALED = [*HUGE, "train.loss_scaling=DYNAMIC", "train.loss_scale=16777216",
          "train.loss_scale_grows_after=2", "run.log_every_steps=1"]


class LossScaling(PealTest):
    def trained(self, name, ranks, overrides, flags=("--fresh",)):
        directory = self.folder / name
        self.train(self.job(), ranks, [f"run.directory={directory}", *overrides], flags)
        return self.hash(directory)

    def scales(self, name):
        return [line["loss_scale"] for line in self.metrics(self.folder / name) if "loss_scale" in line]

    def refuse(self, overrides, code, *expected):
        words = ["train", self.job(), "--fresh"]
        for override in overrides:
            words += ["--set", override]
        for ranks in (0, 2):
            result = run(words, ranks)
            self.assertEqual(result.returncode, code, result.stderr)
            for part in expected:
                self.assertIn(part, result.stderr)

    def test_what_overflows_is_skipped_alike_on_any_number_of_ranks(self):
        whole = self.trained("whole", 1, SCALED)
        scales = self.scales("whole")
        pairs = list(zip(scales, scales[1:]))
        self.assertEqual(len(scales), 20)
        self.assertTrue(any(b == a / 2 for a, b in pairs), scales)
        self.assertTrue(any(b == a * 2 for a, b in pairs), scales)
        self.assertTrue(all(b in (a, a / 2, a * 2) for a, b in pairs), scales)
        for ranks in (0, 2, 3, 4):
            self.assertEqual(self.trained(f"ranks-{ranks}", ranks, SCALED), whole)
            self.assertEqual(self.scales(f"ranks-{ranks}"), scales)
        self.assertEqual(self.trained("sharded", 3, [*SCALED, "parallel.shard_optimizer=true"]), whole)
        log = (self.folder / "whole/logs/rank-0.log").read_text()
        skipped = sum(b == a / 2 for a, b in zip([16777216, *scales], scales))
        self.assertEqual(log.count("the gradient is not finite at loss scale"), skipped)

    def test_the_scale_outlives_a_stop(self):
        whole = self.trained("whole", 2, SCALED)
        for sharded in ("false", "true"):
            for steps, ranks in ((3, 3), (4, 1), (9, 2), (20, 4)):
                found = self.trained(f"legs-{sharded}", ranks, [
                    *SCALED, f"train.max_steps={steps}", f"parallel.shard_optimizer={sharded}"], ())
            self.assertEqual(found, whole)
            self.assertEqual(self.scales(f"legs-{sharded}"), self.scales("whole"))

    def test_without_an_overflow_it_changes_no_bit(self):
        settings = [[], ["train.clip_norm=0.5"]]
        if CPU_HAS_BF16:
            settings.append(["train.precision=BF16"])
        for also in settings:
            plain = self.trained("plain", 2, also)
            self.assertEqual(self.trained("scaled", 2, [*also, "train.loss_scaling=DYNAMIC"]), plain)
            self.assertEqual(set(self.scales("scaled")), {65536})

    def test_the_smallest_scale_is_the_end(self):
        self.refuse([*SCALED, "train.clip_norm=0", "train.loss_scale=4",
                     "data.preprocess[0].scale.factor=1e35", "optimizer.sgd.learning_rate=1"], NUMERIC,
                    "step ", "not finite at loss scale 1", "smaller learning rate")

    def test_wrong_input(self):
        for override, *expected in (
                ("train.loss_scale=1000", "train.loss_scale", "1000", "512"),
                ("train.loss_scale=0.5", "train.loss_scale", "0.5", "[1, 16777216]"),
                ("train.loss_scale_grows_after=0", "train.loss_scale_grows_after", "0"),
                ("train.loss_scaling=ON", "train.loss_scaling", "AUTO, OFF, DYNAMIC")):
            self.refuse([override], INPUT, *expected)
        self.refuse(["train.loss_scaling=DYNAMIC", "parallel.compression.bf16={}"], INPUT,
                    "parallel.compression", "train.loss_scaling")


if __name__ == "__main__":
    unittest.main()
