"""`peal launch --bind`: what each rank is told to keep to and keeps to, within the limits of the
process, and the same bits whatever that is. Trees of other machines: launcher/binding_test.cpp."""
import os
import pathlib
import re
import subprocess
import unittest

from peal_cli import MPI_ENVIRONMENT, PEAL, PealTest, run

CPUS = sorted(os.sched_getaffinity(0))


class Binding(PealTest):
    @classmethod
    def setUpClass(cls):
        if len(CPUS) < 2:
            raise AssertionError("needs two processors")

    def launch(self, *words, ranks=2, code=0, cpus=(), **variables):
        """In a process that may use `cpus` only."""
        taskset = ["taskset", "--cpu-list", ",".join(map(str, cpus))] if cpus else []
        done = subprocess.run([*taskset, PEAL, "launch", "-n", str(ranks), *map(str, words)],
                              capture_output=True, text=True, timeout=120,
                              env={**MPI_ENVIRONMENT, **variables})
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def told(self, name="run"):
        """By rank, what its log says it keeps to."""
        logs = sorted((self.folder / name / "logs").glob("rank-*.log"))
        return [re.search(r"binding: (.*)", log.read_text())[1] for log in logs]

    @staticmethod
    def cpus_of(line):
        """The processors that a line names: {0, 2, 3} for "CPUs 0,2-3: ..."."""
        cpus = set()
        for part in re.search(r"CPUs? ([\d,-]+):", line)[1].split(","):
            ends = part.split("-")
            cpus |= set(range(int(ends[0]), int(ends[-1]) + 1))
        return cpus

    def test_dry_run_tells_it(self):
        other = {"HWLOC_SYNTHETIC": "pack:2 numa:1 core:4 pu:2"}
        said = self.launch(self.job(), "--dry-run", ranks=4, **other)
        self.assertEqual(said.splitlines()[1:],
                         ["# rank 0: CPUs 0-3: 2 cores of socket 0, NUMA node 0",
                          "# rank 1: CPUs 4-7: 2 cores of socket 0, NUMA node 0",
                          "# rank 2: CPUs 8-11: 2 cores of socket 1, NUMA node 1",
                          "# rank 3: CPUs 12-15: 2 cores of socket 1, NUMA node 1"])
        said = self.launch(self.job(), "--dry-run", "--bind", "core", ranks=9, code=2, **other)
        self.assertRegex(said, r"--bind core: host \S+: 9 ranks, which may use 8 cores; start fewer")
        said = self.launch(self.job(), "--dry-run", cpus=CPUS[:1])
        self.assertEqual(said.count(f"not bound: 2 ranks share CPU {CPUS[0]}: 1 core"), 2, said)

    def test_the_same_bits_however_ranks_are_bound(self):
        job = self.job(limit=256, epochs=1)
        self.train(job)
        expected = self.hash(self.folder / "run")
        for bind, cpus in (("auto", ()), ("core", ()), ("socket", ()), ("numa", ()), ("none", ()),
                           ("auto", CPUS[:1])):
            with self.subTest(bind=bind, cpus=cpus):
                name = f"{bind}-{len(cpus)}"
                self.launch(job, "--bind", bind, "--set", f"run.directory={self.folder / name}",
                            cpus=cpus)
                self.assertEqual(self.hash(self.folder / name), expected)
                told = self.told(name)
                self.assertEqual(len(told), 2)
                shares = [self.cpus_of(line) for line in told if line.startswith("CPU")]
                if bind in ("auto", "core") and not cpus:
                    self.assertTrue(shares[0].isdisjoint(shares[1]), told)
                    self.assertLessEqual(shares[0] | shares[1], set(CPUS))
                    for share, line in zip(shares, told):
                        self.assertIn(f"; {min(8 // 2, len(share))} virtual ranks at a time", line)
                elif bind in ("socket", "numa"):
                    self.assertEqual(len(shares), 2, told)
                else:
                    self.assertIn("not bound", told[0])

    def test_ranks_stay_on_their_processors(self):
        # What the kernel says of the ranks, while they train.
        job = self.job(limit=4000, epochs=4000, extra="eval { every_epochs: 0 }\n")
        process = subprocess.Popen([PEAL, "launch", "-n", "2", job], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, env=MPI_ENVIRONMENT,
                                   start_new_session=True)
        try:
            for line in process.stdout:
                if "epoch" in line:
                    break
            told = [self.cpus_of(line) for line in self.told()]
            found = [os.sched_getaffinity(pid) for pid in self.ranks_below(process.pid)]
            self.assertEqual(sorted(found, key=min), sorted(told, key=min))
        finally:
            process.terminate()
            process.communicate(timeout=60)

    @staticmethod
    def ranks_below(pid):
        pids = [pid]
        for parent in pids:
            listed = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
            pids += [int(child) for child in listed.stdout.split()]
        words = {p: pathlib.Path(f"/proc/{p}/cmdline").read_text().split("\0") for p in pids}
        return [p for p in pids if words[p][:2] == [PEAL, "train"]]

    def test_more_than_there_is(self):
        many = len(CPUS) + 1
        said = self.launch(self.job(), "--bind", "core", ranks=many, code=2)
        self.assertRegex(said, rf"--bind core: host \S+: {many} ranks, which may use \d+ cores")
        self.assertFalse((self.folder / "run").exists())
        # Where only the ranks can know it, all end alike and one of them says so.
        done = subprocess.run(["mpirun", "-np", str(many), "--bind-to", "none", PEAL, "train",
                               self.job(), "--bind", "core"], capture_output=True, text=True,
                              timeout=120, env=MPI_ENVIRONMENT)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(done.stderr.count("peal: "), 1, done.stderr)
        self.assertIn(f"{many} ranks, which may use", done.stderr)
        done = run(["train", self.job(), "--local", 2, "--bind", "core"])
        self.assertEqual(done.returncode, 2)
        self.assertIn("--local", done.stderr)

    def test_mpirun_has_bound_them(self):
        done = subprocess.run(["mpirun", "-np", "2", "--bind-to", "core", PEAL, "train",
                               self.job(limit=256, epochs=1), "--bind", "auto"],
                              capture_output=True, text=True, timeout=120, env=MPI_ENVIRONMENT)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        told = self.told()
        for line in told:
            self.assertIn("bound by mpirun to CPU", line)
        self.assertNotEqual(self.cpus_of(told[0]), self.cpus_of(told[1]))


if __name__ == "__main__":
    unittest.main()
