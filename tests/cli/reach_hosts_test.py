"""Shards copied to the hosts' own disks, on hosts of the test bed: once a host, not once a rank."""
import pathlib
import unittest

from bed import BedTest, testbed
from peal_cli import DATA, PEAL, run
from reach_test import JOB, SHARDS, human


class ReachHosts(BedTest):
    UP = (2, "--share", DATA)

    def on(self, host, *words):
        said = testbed("exec", host, *words)
        self.assertEqual(said.returncode, 0, said.stderr)
        return said.stdout.split()

    def test_each_host_copies_once(self):
        shards = self.folder / "shards"
        done = run(["shard", self.job(limit=1000), "--count", SHARDS, "--out", shards])
        self.assertEqual(done.returncode, 0, done.stderr)
        total = sum(path.stat().st_size for path in shards.glob("*.peal"))
        job = self.folder / "reach.textproto"
        source = f'directory: "{shards}"'
        job.write_text(JOB.format(source=source, epochs=2, run=self.folder / "run"))
        window = ["--set", "data.shuffle_window_shards=3"]
        expected = []
        for more in ([], window):
            self.train(job, 1, more[1:], ["--fresh"])
            expected.append(self.hash(self.folder / "run"))
        job.write_text(JOB.format(source=source + ' cache: "/tmp/peal-cache"', epochs=2,
                                  run=self.folder / "run"))
        for more, hash_of in zip(([], window), expected):
            for host in ("h1", "h2"):
                testbed("exec", host, "rm", "-rf", "/tmp/peal-cache")
            trained = testbed("mpirun", 2, PEAL, "train", job, "--fresh", *more)
            self.assertEqual(trained.returncode, 0, trained.stdout + trained.stderr)
            self.assertEqual(self.hash(self.folder / "run"), hash_of)
            for host in ("h1", "h2"):
                files = self.on(host, "sh", "-c", "ls /tmp/peal-cache/*/*.peal /tmp/peal-cache/*/*.part "
                                "2>/dev/null; true")
                self.assertEqual(len(files), SHARDS)
                self.assertTrue(all(name.endswith(".peal") for name in files), files)
            if not more:  # two hosts, four ranks
                self.assertIn(f"fetched {human(2 * total)} of records", trained.stdout)
        self.assertFalse(pathlib.Path("/tmp/peal-cache").exists())
        # The next run copies nothing.
        again = testbed("mpirun", 2, PEAL, "train", job, "--fresh")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertNotIn("fetched", again.stdout)
        self.assertEqual(self.hash(self.folder / "run"), expected[0])

    def test_a_host_without_room_ends_all(self):
        shards = self.folder / "shards"
        done = run(["shard", self.job(limit=1000), "--count", SHARDS, "--out", shards])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.on("h2", "sh", "-c", "mkdir /tmp/tiny && mount -t tmpfs -o size=256k tmpfs /tmp/tiny")
        self.on("h1", "mkdir", "-p", "/tmp/tiny")
        job = self.folder / "reach.textproto"
        job.write_text(JOB.format(source=f'directory: "{shards}" cache: "/tmp/tiny"', epochs=1,
                                  run=self.folder / "run"))
        said = testbed("mpirun", 2, PEAL, "train", job)
        self.assertEqual(said.returncode, 2, said.stdout + said.stderr)
        self.assertRegex(said.stderr, r"rank [23].*/tmp/tiny: .* are free, and .* to come here")
        self.assertEqual(self.on("h1", "sh", "-c", "ls /tmp/tiny/*/*.peal 2>/dev/null; true"), [])


if __name__ == "__main__":
    unittest.main()
