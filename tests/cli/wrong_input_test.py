"""Wrong input: one clear message that names file and field and what is allowed, the exit code of
the table on every rank, within ten seconds, nobody left behind, nothing half-written."""
import gzip
import os
import shutil
import subprocess
import time
import unittest
from unittest import mock

from peal_cli import DATA, MPI_ENVIRONMENT, PEAL, PealTest, run, run_failing

INPUT, PEER, NUMERIC = 2, 3, 4
MNIST = DATA / "mnist"


class WrongInput(PealTest):
    def refuse(self, arguments, code, *expected, ranks=(0, 2), seconds=10):
        for n in ranks:
            with self.subTest(ranks=n):
                before = time.monotonic()
                result, codes = run_failing(arguments, n)
                took = time.monotonic() - before
                self.assertEqual(result.returncode, code, result.stdout + result.stderr)
                self.assertEqual(codes, [code] * n, result.stderr)
                said = [line for line in result.stderr.splitlines() if line.startswith("peal: ")]
                self.assertEqual(len(said), 1, f"not one message:\n{result.stderr}")
                for text in expected:
                    self.assertIn(text, said[0])
                self.assertLess(took, seconds)
                self.assertEqual(self.leftovers(), [])

    def leftovers(self):
        """Half-written files, and processes of this test that still run."""
        left = [str(p) for p in self.folder.rglob("*.tmp")] + \
               [str(p) for p in self.folder.rglob(".tmp-*")]
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        return left + [line for line in listing.splitlines()
                       if str(self.folder) in line and "peal train" in line and "mpirun" not in line]

    def refuse_job(self, overrides, code, *expected, **options):
        arguments = ["train", self.job()]
        for override in overrides:
            arguments += ["--set", override]
        self.refuse(arguments, code, *expected, **options)

    # ---- The job ----

    def test_unknown_field(self):
        self.refuse(["train", self.job(extra="checkpoint { every_step: 3 }")], INPUT,
                    "job.textproto", "every_step", "every_steps")

    def test_unknown_field_in_an_override(self):
        self.refuse_job(["train.batch=3"], INPUT, "train.batch", "global_batch")

    def test_wrong_type(self):
        self.refuse(["train", self.job(extra='eval { batch: "many" }')], INPUT,
                    "job.textproto", "batch")
        self.refuse_job(["train.epochs=three"], INPUT, "train.epochs", "three")

    def test_zero_batch(self):
        self.refuse_job(["train.global_batch=0"], INPUT, "train.global_batch", "[1, inf)")

    def test_batch_not_divisible(self):
        self.refuse_job(["train.global_batch=60"], INPUT, "train.global_batch", "60", "56", "64")

    def test_more_ranks_than_virtual_ranks(self):
        self.refuse_job(["parallel.virtual_ranks=2"], INPUT, "virtual_ranks", "3", "2", ranks=(3,))

    def test_compression_that_cannot_be(self):
        compression = "parallel.compression"
        for overrides, expected in (
                (["int8={}"], ("compression.int8", "RANK_INVARIANT", "REPEATABLE", "FAST")),
                (["power_sgd.rank=0"], ("power_sgd.rank", "0", "[1, 64]")),
                # Nothing in this model is large enough.
                (["power_sgd.rank=60"], ("power_sgd.rank", "60", "smaller rank")),
                (["f16.scale=3"], ("f16.scale", "3", "power of two")),
                (["int8.block=6"], ("int8.block", "6", "multiple of 4"))):
            self.refuse_job([f"{compression}.{o}" for o in overrides], INPUT, *expected)
        self.refuse_job([f"{compression}={{}}"], INPUT, compression, "f16, bf16, int8, power_sgd")

    def test_a_gpu_that_is_not_there(self):
        nothing = {"CUDA_VISIBLE_DEVICES": "-1"}  # whatever this machine has
        with mock.patch.dict(os.environ, nothing), mock.patch.dict(MPI_ENVIRONMENT, nothing):
            self.refuse_job(["parallel.device=CUDA"], INPUT, "cuda:0: ", "CUDA")
            self.refuse_job(["parallel.device=CUDA", "parallel.compression.bf16={}"], INPUT,
                            "parallel.compression", "leave it out", "device: CPU")
        self.refuse_job(["parallel.device=GPU"], INPUT, "parallel.device", "CPU, CUDA")

    def test_arithmetic_that_is_not_there(self):
        for precision in ("TF32", "F16"):
            self.refuse_job([f"train.precision={precision}"], INPUT, "train.precision", precision,
                            "this CPU", "F32")
        self.refuse_job(["train.precision=BF8"], INPUT, "train.precision", "F32, TF32, BF16, F16")

    def test_gradients_beyond_f16(self):
        self.refuse_job(["parallel.compression.f16={}", "data.preprocess[0].scale.factor=1e4"],
                        NUMERIC, "f16", "65504", "1024", "bf16")

    def test_missing_job(self):
        self.refuse(["train", self.folder / "none.textproto"], INPUT, "none.textproto")

    def test_unknown_flag_and_command(self):
        for arguments in (["train", self.job(), "--frseh"], ["trian"]):
            result = run(arguments)
            self.assertEqual(result.returncode, INPUT)

    def test_ranks_given_different_jobs(self):
        a, b = self.job("a"), self.job("b", limit=500)
        script = self.folder / "start.sh"
        peal = PEAL
        script.write_text(f"#!/bin/sh\n[ $OMPI_COMM_WORLD_RANK = 1 ] && exec {peal} train {b}\n"
                          f"exec {peal} train {a}\n")
        script.chmod(0o755)
        before = time.monotonic()
        result = subprocess.run(["mpirun", "-np", "3", str(script)], capture_output=True,
                                text=True, timeout=60, env=MPI_ENVIRONMENT)
        self.assertEqual(result.returncode, NUMERIC, result.stderr)
        self.assertLess(time.monotonic() - before, 10)
        self.assertIn("rank 1", result.stderr)
        self.assertIn("job", result.stderr)

    # ---- Tables of algorithms ----

    TABLE = "version: 1\nmade_on: a GPU\nproduct: m=1 n=2 k=3 algorithm=1\nend: algorithms\n"

    def test_tables_of_algorithms(self):
        table, broken = self.folder / "table", self.folder / "broken"
        table.write_text(self.TABLE)
        broken.write_text(self.TABLE.replace("n=2", "n=two"))
        gpu = "parallel.device=CUDA"
        named = f"train.algorithms={table}"
        for overrides, expected in (
                ([gpu, "train.algorithms=none"], ("train.algorithms: none: is no file",)),
                ([gpu, f"train.algorithms={broken}"],
                 ("train.algorithms: ", "broken:3 n: ", '"two"; allowed: 1 to')),
                ([gpu, named, "train.algorithms_digest=0123456789abcdef"],
                 ("train.algorithms_digest", "0123456789abcdef", "not the digest", str(table))),
                ([named], ("train.algorithms", "parallel.device: CUDA", "leave it out")),
                (["train.algorithms_digest=0123456789abcdef"], ("train.algorithms,", "missing"))):
            self.refuse_job(overrides, INPUT, *expected)

    def test_nothing_to_choose(self):
        job = self.job()
        table = self.folder / "table"
        self.refuse(["bench", "algorithms", job, "--tune", table], INPUT, "parallel.device",
                    "CPU has one way", "nothing to choose")
        gpu = ["--set", "parallel.device=CUDA"]
        self.refuse(["bench", "algorithms", job, *gpu], INPUT, "2 ranks", "start one",
                    "parallel.virtual_ranks", ranks=(2,))
        nothing = {"CUDA_VISIBLE_DEVICES": "-1"}
        with mock.patch.dict(os.environ, nothing):
            self.refuse(["bench", "algorithms", job, *gpu, "--tune", table], INPUT, "cuda:0: ",
                        ranks=(0,))
        self.assertFalse(table.exists())
        for ways in ("0", "33", "all"):
            result, _ = run_failing(["bench", "algorithms", job, *gpu, "--ways", ways], 0)
            self.assertEqual(result.returncode, INPUT)
            self.assertIn(f"--ways: Value {ways} not in range 1 to 32", result.stderr)

    # Fields that do not define the result are not named, wherever they stand.
    def test_a_checkpoint_of_another_job(self):
        self.train(self.job(), overrides=["train.max_steps=1"])
        self.refuse_job(["train.max_steps=2", "train.seed=9"], INPUT, "step-000000001",
                        'it has "seed: 3" where this job has "seed: 9"')

    # ---- Weights to start from ----

    def test_weights_that_do_not_fit(self):
        self.train(self.job(), overrides=["train.max_steps=1"])
        weights = self.folder / "run/checkpoints/step-000000001/weights.safetensors"
        self.refuse_job(["run.directory=" + str(self.folder / "other"), f"model.weights={weights}",
                         "model.cnn.hidden=16"], INPUT, "weights.safetensors",
                        "3 tensors of another shape", "dense1.bias is (32) and must be (16)")
        self.refuse_job(["run.directory=" + str(self.folder / "other"), f"model.weights={weights}",
                         "model.cnn.batch_norm=true"], INPUT, "weights.safetensors",
                        "lacks 4 tensors", "norm.weight", "norm.running_mean")

    def test_weights_that_cannot_be_read(self):
        self.refuse_job(["model.weights=none.safetensors"], INPUT, "none.safetensors", "No such file")
        file = self.folder / "x.safetensors"
        for content, expected in (
                (b"\x08", "too few"), (b"\xff" * 8 + b"{}", "header"),
                ((60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
                 .ljust(60) + b"1234", "truncated")):
            file.write_bytes(content)
            self.refuse_job([f"model.weights={file}"], INPUT, "x.safetensors", expected, ranks=(2,))

    # ---- Records ----

    def with_images(self, change, name="images.gz"):
        """A damaged copy of MNIST's test pictures; returns the overrides that name it."""
        path = self.folder / name
        path.write_bytes(change((MNIST / "t10k-images-idx3-ubyte.gz").read_bytes()))
        return path, [f"data.train.idx.images={path}"]

    def test_missing_images(self):
        self.refuse_job(["data.train.idx.images=/nowhere/images"], INPUT, "/nowhere/images")

    def test_truncated_gzip(self):
        path, overrides = self.with_images(lambda b: b[:100000])
        self.refuse_job(overrides, INPUT, str(path))

    def test_corrupt_gzip(self):
        path, overrides = self.with_images(
            lambda b: b[:100000] + bytes(x ^ 0xFF for x in b[100000:100016]) + b[100016:])
        self.refuse_job(overrides, INPUT, str(path))

    def test_truncated_plain(self):
        path, overrides = self.with_images(lambda b: gzip.decompress(b)[:-1], "images")
        self.refuse_job(overrides, INPUT, str(path))

    def test_not_idx(self):
        path, overrides = self.with_images(lambda b: b"hello, I am no picture", "images")
        self.refuse_job(overrides, INPUT, str(path))

    def test_labels_of_other_length(self):
        self.refuse_job([f"data.train.idx.labels={MNIST}/train-labels-idx1-ubyte.gz"], INPUT,
                        "train-labels", "60000", "10000")

    def test_labels_out_of_range(self):
        self.refuse_job(["model.cnn.classes=9"], INPUT, "t10k-", "9", "record")

    def test_wrong_record_size(self):
        self.refuse_job(["model.cnn.height=32"], INPUT, "28", "32")

    def csv_job(self, text):
        path = self.folder / "table.csv"
        path.write_text(text)
        job = self.folder / "csv.textproto"
        job.write_text(f'data {{ train {{ csv {{ path: "{path}" label_column: "class" }} }} }}\n'
                       "model { mlp { inputs: 2 hidden: 4 } }\noptimizer { sgd {} }\n"
                       f'train {{ global_batch: 2 }}\nrun {{ directory: "{self.folder}/run" }}\n')
        return path, job

    def test_csv(self):
        cases = {"a,b,class\n1,2,0\n1,x,1\n": ("table.csv", "3", "x"),
                 "a,b,class\n1,2,0\n1,2\n": ("table.csv", "3"),
                 "a,b,label\n1,2,0\n1,2,1\n": ("class", "label"),
                 'a,b,class\n1,"2,0\n': ("table.csv",),
                 "a,b,class\n1,2,0\n1,nan,1\n": ("table.csv", "nan"),
                 "a,b,class\n1,2,0\n1,2,3\n": ("table.csv", "3"),
                 "a,b,class\n": ("table.csv",),
                 "": ("table.csv",)}
        for text, expected in cases.items():
            with self.subTest(text=text):
                _, job = self.csv_job(text)
                self.refuse(["train", job], INPUT, *expected, ranks=(0,))
        _, job = self.csv_job("a,b,class\n1,2,0\n1,x,1\n")
        self.refuse(["train", job], INPUT, "table.csv", ranks=(2,))

    def test_shards(self):
        shards = self.folder / "shards"
        cut = run(["shard", self.job(), "--count", 3, "--out", shards])
        self.assertEqual(cut.returncode, 0, cut.stderr)
        job = self.folder / "shards.textproto"
        job.write_text(self.job().read_text())
        use = [f"data.train.shards.directory={shards}"]
        good = run(["train", job, *sum((["--set", u] for u in use), [])])
        self.assertEqual(good.returncode, 0, good.stderr)
        file = sorted(shards.glob("*.peal"))[1]
        whole = file.read_bytes()
        arguments = ["train", job, "--set", use[0], "--fresh"]
        file.write_bytes(whole[:-10])
        self.refuse(arguments, INPUT, file.name)
        file.write_bytes(b"x" + whole[1:])
        self.refuse(arguments, INPUT, file.name)
        flipped = bytearray(whole)
        flipped[5000] ^= 1
        file.write_bytes(flipped)
        self.refuse(["shard", "--verify", "--out", shards], INPUT, file.name, ranks=(0,))
        file.unlink()
        self.refuse(arguments, INPUT, file.name)
        self.refuse(["shard", self.job(), "--count", 4, "--out", shards], INPUT, "shards",
                    "--count 3", "--count 4", ranks=(0,))
        # The command that made them makes the missing one again.
        again = run(["shard", self.job(), "--count", 3, "--out", shards])
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(file.read_bytes(), whole)

    # ---- Where it writes ----

    def test_unwritable_directory(self):
        file = self.folder / "file"
        file.write_text("in the way")
        self.refuse_job([f"run.directory={file}/run"], INPUT, str(file))

    def test_checkpoint_of_another_model(self):
        job = self.job()
        self.train(job, 0, ["train.max_steps=3"])
        before = self.hash(self.folder / "run")
        self.refuse(["train", job, "--set", "model.cnn.hidden=48"], INPUT, "hidden", "32", "48")
        self.refuse(["eval", self.folder / "run", job, "--set", "model.cnn.hidden=48", "--set",
                     f"data.test.idx.images={MNIST}/t10k-images-idx3-ubyte.gz", "--set",
                     f"data.test.idx.labels={MNIST}/t10k-labels-idx1-ubyte.gz"], INPUT,
                    "dense", "48", ranks=(0,))
        self.assertEqual(self.hash(self.folder / "run"), before)

    def test_full_disk(self):
        """A file system of 700 KB: the first checkpoints fit, a later one does not."""
        disk = self.folder / "disk"
        disk.mkdir()
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        mount = subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", "size=700k,mode=777",
                                "tmpfs", disk], capture_output=True, text=True)
        self.assertEqual(mount.returncode, 0, "needs root to mount a small tmpfs: " + mount.stderr)
        self.addCleanup(subprocess.run, [*as_root, "umount", "-l", disk])
        arguments = ["train", self.job(epochs=4), "--set", f"run.directory={disk}/run", "--set",
                     "checkpoint.every_steps=2", "--set", "checkpoint.keep=100"]
        for n, sharded in ((0, "false"), (2, "false"), (2, "true")):
            shutil.rmtree(disk / "run", ignore_errors=True)
            before = time.monotonic()
            result, codes = run_failing(
                [*arguments, "--set", f"parallel.shard_optimizer={sharded}"], n)
            self.assertEqual(result.returncode, INPUT, result.stdout + result.stderr)
            self.assertEqual(codes, [INPUT] * n, result.stderr)
            self.assertLess(time.monotonic() - before, 10)
            self.assertIn("No space left on device", result.stderr)
            self.assertIn(str(disk), result.stderr)
            kept = list((disk / "run" / "checkpoints").glob("step-*"))
            for checkpoint in kept:
                self.assertEqual(run(["inspect", checkpoint]).returncode, 0, checkpoint)

    # ---- Numbers ----

    def test_loss_is_not_a_number(self):
        # The error is the same on every rank; no weights of NaN are ever saved.
        self.refuse_job(["optimizer.sgd.learning_rate=1e30", "checkpoint.every_steps=1"], NUMERIC,
                        "step", "loss")


if __name__ == "__main__":
    unittest.main()
