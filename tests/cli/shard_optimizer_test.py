"""parallel.shard_optimizer: the bits and the files of a run without it, at any number of ranks; runs
that change it or are killed on their way; what it saves; what it is not there for."""
import hashlib
import json
import re
import struct
import unittest

from elastic import ElasticTest, Launched, MemoryFile, kill, ranks_of
from peal_cli import PEAL, kill_tree, run, run_failing, start

SHARD = "parallel.shard_optimizer=true"
SMALL = "parallel.bucket_size=32KiB"  # several buckets of the small model
LONG = {"limit": 2000, "epochs": 8, "extra": "eval { every_epochs: 0 }\n"}
UNIT = 4096 * 4  # bytes of a block of the gradient norm


def values(text):
    """Of "optimizer 1.5 MiB (sharded over 2 ranks: 3.0 MiB in all)", in bytes."""
    units = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    found = re.search(r"optimizer ([\d.]+) (\w+) \(sharded over (\d+) ranks: ([\d.]+) (\w+) in all\)",
                      text)
    return float(found[1]) * units[found[2]], int(found[3]), float(found[4]) * units[found[5]]


class ShardOptimizer(ElasticTest):
    def files(self, directory):
        """Checksums of the newest checkpoint's files of weights and of the optimizer."""
        newest = max((directory / "checkpoints").glob("step-*"))
        return tuple(hashlib.sha256((newest / f"{part}.safetensors").read_bytes()).hexdigest()
                     for part in ("weights", "optimizer"))

    def trained(self, name, n, overrides, flags=("--fresh",), **job):
        directory = self.folder / name
        self.train(self.job(**job), n, [f"run.directory={directory}", *overrides], flags)
        return self.files(directory)

    def check(self, overrides, ranks=(1, 2, 3, 4), local=()):
        """Sharded on each number of ranks, against one rank without; what is logged too."""
        whole = self.trained("whole", 1, overrides)
        for n in ranks:
            with self.subTest(ranks=n, overrides=overrides):
                self.assertEqual(self.trained(f"run-{n}", n, [SHARD, *overrides]), whole)
                self.assertEqual(self.logged(f"run-{n}"), self.logged("whole"))
        for n in local:
            with self.subTest(local=n):
                found = self.trained("local", 0, [SHARD, *overrides],
                                     ["--fresh", "--local", str(n)])
                self.assertEqual(found, whole)
        return whole

    def logged(self, name):
        numbers = [{k: v for k, v in line.items() if k in ("step", "loss", "gradient_norm")}
                   for line in self.metrics(self.folder / name)]
        self.assertTrue(any("gradient_norm" in line for line in numbers))
        return numbers

    def test_same_bits_and_files(self):
        # Dropout, shuffling and a ragged batch.
        found = self.check([SMALL], ranks=(0, 1, 2, 3, 4, 8), local=(3, 5))
        self.assertNotEqual(found, self.trained("other", 2, [SHARD, SMALL, "train.seed=4"]))
        self.check([], ranks=(3,))  # one bucket and its tail

    def test_clipping_decay_and_a_schedule(self):
        self.check([SMALL, "train.clip_norm=0.5", "optimizer.adamw.weight_decay=0.1",
                    "schedule.cosine.last_factor=0.1", "schedule.warmup_steps=3"])

    def test_batch_norm_and_momentum(self):
        self.check([SMALL, "model.cnn.batch_norm=true", "optimizer.sgd.learning_rate=0.02",
                    "optimizer.sgd.momentum=0.9", "optimizer.sgd.nesterov=true",
                    "optimizer.sgd.weight_decay=0.001"])

    def test_optimizers_with_one_state_two_and_none(self):
        for optimizer in ("sgd={}", "rmsprop={}", "rmsprop.momentum=0.5"):
            self.check([SMALL, f"optimizer.{optimizer}"], ranks=(3,))

    def test_virtual_ranks_threads_and_parts(self):
        self.check([SMALL, "parallel.virtual_ranks=7", "train.global_batch=56",
                    "parallel.threads=2", "train.clip_norm=0.5"], ranks=(2, 3, 5))
        self.check([SMALL, "train.accumulate_steps=2", "parallel.overlap=false"], ranks=(3,))

    def test_repeatable_repeats(self):
        overrides = [SHARD, SMALL, "parallel.reduction=REPEATABLE"]
        self.assertEqual(self.trained("first", 3, overrides), self.trained("second", 3, overrides))

    def test_a_run_goes_on_with_other_ranks_and_without(self):
        whole = self.trained("whole", 1, [SMALL, "train.max_steps=16"])
        legs = ((4, 3, True), (8, 2, False), (12, 4, True), (16, 2, True))
        for steps, n, sharded in legs:
            overrides = [SMALL, f"train.max_steps={steps}",
                         f"parallel.shard_optimizer={str(sharded).lower()}"]
            found = self.trained("legs", n, overrides, flags=())
        self.assertEqual(found, whole)

    def test_killed_and_resumed_on_other_ranks(self):
        whole = self.trained("whole", 2, [SMALL], **LONG)
        directory = self.folder / "killed"
        path = self.job("killed", **{**LONG, "extra": LONG["extra"] + "checkpoint { every_steps: 5 }"})
        words = ["train", path, "--set", f"run.directory={directory}", "--set", SHARD, "--set", SMALL]
        process = start(words, 3)
        try:
            while len(list((directory / "checkpoints").glob("step-*/manifest.pb"))) < 2:
                self.assertIsNone(process.poll(), "ended before it could be killed")
        finally:
            kill_tree(process)
            process.communicate()
        said = self.train(path, 2, [f"run.directory={directory}", SHARD, SMALL])
        self.assertIn("going on after step", said)
        self.assertEqual(self.files(directory), whole)

    def test_goes_on_from_memory(self):
        memory = ["checkpoint.memory_every_steps=3", "checkpoint.every_steps=1000000"]
        job = self.job(**{**LONG, "epochs": 2000})
        words = ["train", job, "--set", SHARD, "--set", SMALL]
        for override in memory:
            words += ["--set", override]
        process = start(words, 3)
        run_folder = self.folder / "run"
        try:
            self.wait_for((run_folder / ".run").exists)
            state = MemoryFile(run_folder)
            self.wait_for(lambda: state.path.exists() and state.slots()[0][0] >= 6)
        finally:
            kill_tree(process)
            process.communicate()
        self.addCleanup(state.path.unlink, missing_ok=True)
        steps = state.slots()[0][0] + 5
        said = self.train(job, 2, [SHARD, SMALL, *memory, f"train.max_steps={steps}"])
        self.assertRegex(said, r"going on after step \d+, from the memory of rank 0")
        whole = self.trained("whole", 1, [SMALL, f"train.max_steps={steps}"],
                             **{**LONG, "epochs": 2000})
        self.assertEqual(self.files(run_folder), whole)
        self.assertFalse(state.path.exists())

    def test_a_rank_dies_under_the_supervisor(self):
        job = self.job(**{**LONG, "epochs": 2000})
        launched = Launched([PEAL, "launch", "-n", 3, "--elastic", "1:3", "--set", SHARD, "--set",
                             SMALL, "--set", "checkpoint.every_steps=1000000", "--set",
                             "checkpoint.memory_every_steps=3", job])
        self.addCleanup(launched.stop)
        status = self.folder / "run/status.json"
        step = lambda: json.loads(status.read_text())["step"] if status.exists() else -1
        self.wait_for(lambda: step() >= 30, 60, "for steps", launched)
        kill(ranks_of(job)[1:2])
        self.wait_for(lambda: self.recoveries(launched), 60, "for a recovery", launched)
        self.assertIn("from the memory of rank 0", launched.text())
        launched.process.send_signal(2)
        self.assertEqual(launched.end(), 0, launched.text())
        self.check_end(job, self.folder / "run", step())

    def test_what_it_saves(self):
        csv = self.folder / "table.csv"
        csv.write_text("a,b,class\n" + "1,2,0\n2,1,1\n" * 64)
        job = self.folder / "wide.textproto"
        job.write_text(f'data {{ train {{ csv {{ path: "{csv}" label_column: "class" }} }} }}\n'
                       "model { mlp { inputs: 2 hidden: [4096, 4096] } }\noptimizer { adam {} }\n"
                       "train { global_batch: 64 }\nparallel { virtual_ranks: 4 }\n"
                       f'run {{ directory: "{self.folder}/run" }}\n')
        state = 2 * 4 * (2 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 + 1)  # Adam's m and v, in bytes
        found = {}
        for sharded in ("false", "true"):
            result = run(["bench", "train", job, "--json", "--steps", "3", "--warmup", "1", "--set",
                          f"parallel.shard_optimizer={sharded}"], 2)
            self.assertEqual(result.returncode, 0, result.stderr)
            found[sharded] = json.loads(result.stdout)
        planned, used = (found["false"][key] - found["true"][key]
                         for key in ("planned_bytes", "peak_rss_bytes"))
        # Rank 0 has half, but for a block of each state, and a bucket to collect it for checkpoints.
        self.assertAlmostEqual(planned, state / 2, delta=2 * UNIT + (1 << 20) + 1024)
        self.assertAlmostEqual(used / planned, 1, delta=0.1)

        said = self.train(job, 2, ["train.max_steps=1", SHARD, "checkpoint.keep=1"])
        mine, slices, whole = values(said)
        self.assertEqual(slices, 2)
        self.assertAlmostEqual(whole, state, delta=state / 100)
        self.assertAlmostEqual(mine, state / 2, delta=state / 100)

    def test_histograms_are_of_all_gradients(self):
        def histograms(directory):
            """Events but for the wall time, of TFRecords: length, its checksum, data, checksum."""
            file, = (directory / "tensorboard").glob("*") if (directory / "tensorboard").exists() \
                else directory.glob("**/*tfevents*")
            data, events, at = file.read_bytes(), [], 0
            while at < len(data):
                size, = struct.unpack_from("<Q", data, at)
                event = data[at + 12:at + 12 + size]
                if b"gradients/" in event:
                    events.append(event[9:])
                at += 16 + size
            return events

        overrides = [SMALL, "run.histograms_every_steps=5"]
        self.trained("whole", 1, overrides)
        self.trained("sharded", 3, [SHARD, *overrides])
        wanted = histograms(self.folder / "whole")
        self.assertGreater(len(wanted), 10)
        self.assertEqual(histograms(self.folder / "sharded"), wanted)

    def test_compression_is_refused(self):
        for compression in ("bf16={}", "power_sgd.rank=2"):
            result, codes = run_failing(["train", self.job(), "--set", SHARD, "--set",
                                         f"parallel.compression.{compression}"], 2)
            self.assertEqual(codes, [2, 2], result.stderr)
            self.assertIn("parallel.shard_optimizer: is not there with parallel.compression",
                          result.stderr)
        self.assertFalse((self.folder / "run/metrics.jsonl").exists())


if __name__ == "__main__":
    unittest.main()
