"""`peal shard` over ranks: the same bytes at any number of them and after any number of kills and
stops; the records of a PNG folder or a tar are those of the IDX file; corrupt pictures are named
and skipped or refused as the job says; wrong input ends every rank alike."""
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import pathlib

from peal_cli import DATA, PealTest, kill_tree, run, run_failing, start
from pictures import Pictures

FASHION = DATA / "fashion-mnist"
INPUT = 2
COUNT = 2000


class Shard(PealTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="peal-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.shared, ignore_errors=True)
        cls.pictures = Pictures(FASHION / "t10k-images-idx3-ubyte.gz",
                                FASHION / "t10k-labels-idx1-ubyte.gz", COUNT)
        cls.pictures.write_folder(cls.shared / "png")
        cls.pictures.write_idx(cls.shared / "idx", cls.pictures.by_class())

    def source_job(self, source, name="source"):
        path = self.folder / f"{name}.textproto"
        path.write_text(f"data {{ train {{ {source} }} }}\n")
        return path

    def png_job(self, folder=None, picture="", name="png"):
        return self.source_job(f'pictures {{ folder: "{folder or self.shared / "png"}" '
                               f'picture {{ {picture} }} }}', name)

    def idx_job(self, folder=None):
        folder = folder or self.shared / "idx"
        return self.source_job(f'idx {{ images: "{folder}/images" labels: "{folder}/labels" }}',
                               "idx")

    def cut(self, job, out, *flags, ranks=0, count=7):
        """Cuts, expects success and returns what was printed."""
        result = run(["shard", job, "--count", count, "--out", self.folder / out, *flags], ranks)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout

    def shards(self, out):
        """Name -> bytes of the shards and the manifest; nothing half-written is there."""
        folder = self.folder / out
        self.assertEqual(list(folder.glob("*.tmp")), [])
        self.assertTrue((folder / "manifest.textproto").exists())
        return {p.name: p.read_bytes()
                for p in [*folder.glob("*.peal"), folder / "manifest.textproto"]}

    def slow_job(self, name="slow"):
        """Pictures made larger, so that the work takes a while."""
        return self.png_job(picture="height: 224 width: 224 fit: RESIZE", name=name)

    # ---- The same bytes ----

    def test_any_number_of_ranks_and_the_idx_file(self):
        said = self.cut(self.idx_job(), "idx")
        self.assertRegex(said, f"idx: {COUNT} records in 7 shards, ")
        expected = self.shards("idx")
        self.assertEqual(len(expected), 8)
        sizes = [len(b) for n, b in expected.items() if n.endswith(".peal")]
        self.assertLess(max(sizes), 1.01 * min(sizes))
        for ranks in (0, 1, 2, 3):
            self.cut(self.png_job(), f"png-{ranks}", ranks=ranks)
            self.assertEqual(self.shards(f"png-{ranks}"), expected, ranks)
        self.cut(self.png_job(), "local", "--local", 4)
        self.assertEqual(self.shards("local"), expected)
        self.assertEqual((self.folder / "png-2/classes.txt").read_text().split(),
                         [str(c) for c in range(10)])

    def test_tar_files(self):
        order = list(range(500))
        self.pictures.write_idx(self.folder / "some", order)
        self.cut(self.idx_job(self.folder / "some"), "idx")
        for mode, ending in (("w", "tar"), ("w:gz", "tar.gz")):
            for i in range(3):
                self.pictures.write_tar(self.folder / f"d-{i:02d}.{ending}",
                                        order[i * 200:(i + 1) * 200], mode)
            job = self.source_job(f'tar {{ path: "{self.folder}/d-{{00..02}}.{ending}" }}', ending)
            for ranks in (0, 2):
                self.cut(job, f"{ending}-{ranks}", ranks=ranks)
                self.assertEqual(self.shards(f"{ending}-{ranks}"), self.shards("idx"))

    def test_training_is_the_same(self):
        self.cut(self.png_job(), "png", ranks=2)
        use = ["train.max_steps=40", "train.global_batch=64"]
        shards = [f"data.train.shards.directory={self.folder / 'png'}",
                  f"run.directory={self.folder}/a"]
        idx = [f"data.train.idx.images={self.shared}/idx/images",
               f"data.train.idx.labels={self.shared}/idx/labels", f"run.directory={self.folder}/b",
               "data.train.limit=0"]
        self.train(self.job(limit=0), 2, use + shards)
        self.train(self.job(limit=0), 0, use + idx)
        self.assertEqual(self.hash(self.folder / "a"), self.hash(self.folder / "b"))

    def test_text(self):
        text = (DATA / "tinyshakespeare/input.txt").read_bytes()
        job = self.source_job(f'text {{ path: "{DATA}/tinyshakespeare/input.txt" by: PIECE '
                              'length: 256 }', "text")
        said = self.cut(job, "text", "--verify", ranks=2)
        self.assertIn("every checksum is right", said)
        body = b""
        for path in sorted((self.folder / "text").glob("*.peal")):
            raw = path.read_bytes()
            records = int.from_bytes(raw[72:80], "little")
            body += raw[4096:4096 + 256 * records]
        self.assertEqual(body, text + bytes(-len(text) % 256))

    # ---- Killed, stopped, resumed ----

    def start_and_wait(self, job, out, ranks, shards):
        """A run of which at least `shards` shards are there, and which is not at its end."""
        process = start(["shard", job, "--count", 300, "--out", self.folder / out], ranks)
        end = time.monotonic() + 60
        while len(list((self.folder / out).glob("*.peal"))) < shards:
            self.assertIsNone(process.poll(), "ended before it was stopped")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.002)
        return process

    @staticmethod
    def ranks_of(mpirun):
        listed = subprocess.run(["pgrep", "-P", str(mpirun.pid)], capture_output=True, text=True)
        return [int(rank) for rank in listed.stdout.split()]

    def test_killed_again_and_again(self):
        self.cut(self.slow_job(), "straight", count=300)
        there = 0
        for ranks in (2, 0, 3, 2):
            process = self.start_and_wait(self.slow_job(), "killed", ranks, there + 20)
            kill_tree(process)
            process.communicate(timeout=30)
            found = len(list((self.folder / "killed").glob("*.peal")))
            self.assertGreaterEqual(found, there + 20)
            self.assertFalse((self.folder / "killed/manifest.textproto").exists())
            there = found
        said = self.cut(self.slow_job(), "killed", ranks=2, count=300)
        # A rank may have finished a shard while it was killed.
        kept = int(re.search(r"(\d+) of them there before", said).group(1))
        self.assertGreaterEqual(kept, there)
        self.assertEqual(self.shards("killed"), self.shards("straight"))
        again = self.cut(self.slow_job(), "killed", count=300)
        self.assertIn("300 of them there before", again)

    def test_stopped_cleanly(self):
        self.cut(self.slow_job(), "straight", count=300)
        for number, ranks in ((signal.SIGINT, 0), (signal.SIGTERM, 2), (signal.SIGTERM, 0)):
            out = f"stopped-{number}-{ranks}"
            process = self.start_and_wait(self.slow_job(), out, ranks, 20)
            # mpirun would pass it on after a while only, when all is done.
            for target in self.ranks_of(process) if ranks else [process.pid]:
                os.kill(target, number)
            output, _ = process.communicate(timeout=30)
            self.assertEqual(process.returncode, 0, output)
            self.assertRegex(output, r"stopped with \d+ of 300 shards")
            done = int(re.search(r"stopped with (\d+) of", output).group(1))
            self.assertEqual(len(list((self.folder / out).glob("*.peal"))), done)
            self.assertEqual(list((self.folder / out).glob("*.tmp")), [])
            said = self.cut(self.slow_job(), out, ranks=2, count=300)
            self.assertIn(f"{done} of them there before", said)
            self.assertEqual(self.shards(out), self.shards("straight"))

    def test_two_runs_in_one_folder(self):
        self.cut(self.slow_job(), "straight", count=300)
        first = self.start_and_wait(self.slow_job(), "both", 2, 20)
        pids = kill_tree(first, signal.SIGSTOP)
        try:
            second = run(["shard", self.slow_job(), "--count", 300, "--out", self.folder / "both"], 2)
            self.assertEqual(second.returncode, INPUT, second.stdout + second.stderr)
            self.assertEqual(second.stderr.count("peal: "), 1, second.stderr)
            named = re.search(r"another `peal shard` is at work in this folder: process (\d+) on host "
                              r"(\S+), since ", second.stderr)
            self.assertIn(int(named[1]), pids)
            self.assertEqual(named[2], socket.gethostname())
        finally:
            kill_tree(first, signal.SIGCONT)
        output, _ = first.communicate(timeout=120)
        self.assertEqual(first.returncode, 0, output)
        self.assertEqual(self.shards("both"), self.shards("straight"))

    def test_a_damaged_shard_is_written_again(self):
        self.cut(self.png_job(), "a")
        expected = self.shards("a")
        (self.folder / "a/manifest.textproto").unlink()
        files = sorted((self.folder / "a").glob("*.peal"))
        files[1].write_bytes(files[1].read_bytes()[:-1])
        files[2].write_bytes(b"x" + files[2].read_bytes()[1:])
        files[3].unlink()
        (self.folder / "a/shard-00003-of-00007.peal.tmp").write_bytes(b"half")
        self.assertIn("4 of them there before", self.cut(self.png_job(), "a", ranks=2))
        self.assertEqual(self.shards("a"), expected)

    def test_changed_source_and_settings(self):
        folder = self.folder / "png"
        shutil.copytree(self.shared / "png", folder)
        job = self.png_job(folder)
        self.cut(job, "a")
        before = self.shards("a")
        out = ["--out", self.folder / "a"]
        self.refuse(["shard", job, "--count", 8, *out], "--count 7", "--count 8", "--fresh")
        self.refuse(["shard", job, "--size", "1MiB", *out], "--count 7", "--size", "--fresh")
        self.refuse(["shard", self.png_job(folder, "height: 20 fit: RESIZE", "other"), "--count", 7,
                     *out], "height: 20", "height: 0", "--fresh")
        os.utime(folder / "3" / os.listdir(folder / "3")[0], (1, 1))
        self.refuse(["shard", job, "--count", 7, *out], "has changed", "times", "--fresh")
        self.assertEqual(self.shards("a"), before)
        self.cut(job, "a", "--fresh", ranks=2)
        self.assertEqual(self.shards("a"), before)
        self.cut(job, "a", "--fresh", count=3)
        self.assertEqual(len(self.shards("a")), 4)
        (self.folder / "a/sharding.json").unlink()
        self.refuse(["shard", job, "--count", 3, *out], "no sharding.json", "--fresh")

    # ---- Corrupt pictures ----

    def test_corrupt_pictures(self):
        folder = self.folder / "png"
        shutil.copytree(self.shared / "png", folder)
        order = self.pictures.by_class()
        name = lambda i: f"{self.pictures.labels[i]}/{i:05d}.png"
        first, middle, last = order[0], order[COUNT // 2 + 7], order[-1]
        whole = (folder / name(first)).read_bytes()
        (folder / name(first)).write_bytes(b"")
        data = (folder / name(middle)).read_bytes()
        (folder / name(middle)).write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
        (folder / name(last)).write_bytes((folder / name(last)).read_bytes()[:-20])

        skip = self.png_job(folder, "on_corrupt: SKIP", "skip")
        for ranks in (0, 2, 3):
            said = self.cut(skip, f"skip-{ranks}", ranks=ranks)
            self.assertIn(f"{COUNT - 3} records", said)
            self.assertIn("3 corrupt ones skipped (skipped.txt)", said)
            lines = (self.folder / f"skip-{ranks}/skipped.txt").read_text().splitlines()
            for line, picture in zip(lines, (first, middle, last), strict=True):
                self.assertIn(name(picture), line)
        good = [i for i in order if i not in (first, middle, last)]
        self.pictures.write_idx(self.folder / "good", good)
        self.cut(self.idx_job(self.folder / "good"), "good")
        self.assertEqual(self.shards("skip-2"), self.shards("good"))
        self.assertEqual(self.shards("skip-3"), self.shards("good"))
        # What was found is kept: gone on with after the list is there.
        (self.folder / "skip-2/manifest.textproto").unlink()
        (self.folder / "skip-2/skipped.txt").unlink()
        self.assertIn("3 corrupt ones skipped", self.cut(skip, "skip-2"))
        self.assertEqual(len((self.folder / "skip-2/skipped.txt").read_text().splitlines()), 3)

        refuse = ["shard", self.png_job(folder), "--count", 7, "--out", self.folder / "refuse"]
        self.refuse(refuse, name(first), "is empty")
        (folder / name(first)).write_bytes(whole)
        (folder / name(middle)).write_bytes(data)
        # On the last rank alone, while the others work.
        self.refuse(refuse, name(last), "corrupt PNG", "ends early")
        self.assertFalse((self.folder / "refuse/manifest.textproto").exists())

    # ---- Wrong input ----

    def refuse(self, arguments, *expected, ranks=(0, 2, 3)):
        """Exit code 2 and one message, on every rank, soon."""
        for n in ranks:
            with self.subTest(ranks=n):
                begin = time.monotonic()
                result, codes = run_failing(arguments, n)
                self.assertLess(time.monotonic() - begin, 20)
                self.assertEqual(result.returncode, INPUT, result.stdout + result.stderr)
                self.assertEqual(codes, [INPUT] * n, result.stderr)
                said = re.findall(r"^peal: (?:.|\n(?!peal: ))*", result.stderr, re.MULTILINE)
                self.assertEqual(len(said), 1, f"not one message:\n{result.stderr}")
                for text in expected:
                    self.assertIn(text, said[0])
                self.assertEqual(list(self.folder.rglob("*.tmp")), [])

    def test_wrong_sources(self):
        def refuse(source, *expected, ranks=(0,)):
            self.refuse(["shard", self.source_job(source), "--count", 2, "--out",
                         self.folder / "out"], *expected, ranks=ranks)
        refuse('pictures { folder: "/nowhere" }', "/nowhere", ranks=(0, 2))
        refuse("pictures {}", "data.train.pictures.folder", "missing")
        refuse('pictures { folder: "/" picture { channels: 2 } }', "channels", "2")
        refuse('tar { path: "/nowhere/*.tar" }', "/nowhere/*.tar")
        refuse('tar { path: "/nowhere/{0..9999999}.tar" }', "100000")
        refuse('text { path: "/nowhere.txt" }', "/nowhere.txt")
        refuse('text { path: "a" by: PIECE label_first: true }', "label_first")
        tar = self.folder / "t.tar"
        self.pictures.write_tar(tar, range(20))
        tar.write_bytes(tar.read_bytes()[:7000])
        refuse(f'tar {{ path: "{tar}" }}', "t.tar", "truncated", ranks=(0, 2))
        png = self.folder / "png/0/a.png"
        png.parent.mkdir(parents=True)
        os.mkfifo(png)
        refuse(f'pictures {{ folder: "{self.folder}/png" }}', "a.png")
        self.refuse(["shard", self.png_job(), "--count", COUNT + 1, "--out", self.folder / "o"],
                    str(COUNT + 1), str(COUNT), ranks=(0,))
        self.refuse(["shard", self.png_job(), "--count", 2, "--out", "/proc/nothing"],
                    "/proc/nothing", ranks=(0, 2))

    def test_sizes_that_differ(self):
        folder = self.folder / "png"
        shutil.copytree(self.shared / "png", folder)
        wide = Pictures(FASHION / "t10k-images-idx3-ubyte.gz",
                        FASHION / "t10k-labels-idx1-ubyte.gz", 1)
        wide.height, wide.width = 14, 56
        shutil.rmtree(self.folder / "wide", ignore_errors=True)
        wide.write_folder(self.folder / "wide")
        odd = next((self.folder / "wide").rglob("*.png"))
        shutil.copy(odd, folder / "9/zzz.png")
        # Not corrupt: SKIP does not hide it.
        self.refuse(["shard", self.png_job(folder, "on_corrupt: SKIP"), "--count", 2, "--out",
                     self.folder / "out"], "9/zzz.png", "14 x 56", "28 x 28", ranks=(0, 2))
        self.cut(self.png_job(folder, "fit: CROP"), "crop", ranks=2)

    def test_training_on_pictures_says_what_to_do(self):
        self.refuse(["train", self.job(), "--set",
                     f"data.train.pictures.folder={self.shared / 'png'}"],
                    "peal shard", "shards {", ranks=(0, 2))

    def test_verify(self):
        self.cut(self.png_job(), "a")
        for ranks in (0, 2, 3):
            result = run(["shard", "--verify", "--out", self.folder / "a"], ranks)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(result.stdout,
                             f"{self.folder}/a: {COUNT} records, every checksum is right\n")
        file = sorted((self.folder / "a").glob("*.peal"))[5]
        raw = bytearray(file.read_bytes())
        raw[5000] ^= 1
        file.write_bytes(raw)
        self.refuse(["shard", "--verify", "--out", self.folder / "a"], file.name, "records")


if __name__ == "__main__":
    unittest.main()
