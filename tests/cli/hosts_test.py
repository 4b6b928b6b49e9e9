"""Ranks on several hosts: the test bed of cluster/testbed.sh, the contract of the communicator and
training across it, and what a cut cable leads to."""
import os
import pathlib
import signal
import subprocess
import time
import unittest

from bed import TESTBED, BedTest, testbed, traces
from peal_cli import DATA, PEAL, run

CONTRACT = pathlib.Path(PEAL).parent / "comm_mpi_test"


class Hosts(BedTest):
    UP = (2, "--share", DATA)

    def mpirun(self, slots, *words):
        return testbed("mpirun", slots, *words)

    def test_each_host_has_a_name_and_folders_of_its_own(self):
        for host in ("h1", "h2"):
            said = testbed("exec", host, "sh", "-c",
                           f"hostname; touch /tmp/{host} /dev/shm/{host}; ls /tmp; ls /dev/shm")
            # The shared folders lie in /tmp here, and so are seen there.
            self.assertEqual(said.stdout.split()[0], host, said.stderr)
            other = "h2" if host == "h1" else "h1"
            self.assertIn(host, said.stdout.split()[1:])
            self.assertNotIn(other, said.stdout.split()[1:])

    def test_contract(self):
        for slots, what in ((1, "contract"), (2, "contract"), (2, "groups"), (2, "large")):
            done = self.mpirun(slots, CONTRACT, "shared", what)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn(f"passed: shared {what} on {2 * slots}", done.stdout)

    def test_same_bits_on_one_host_and_on_two(self):
        job = self.job()
        self.train(job, 1)
        alone = self.hash(self.folder / "run")
        for slots in (1, 2):
            done = self.mpirun(slots, PEAL, "train", job, "--fresh")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn(f"{2 * slots} ranks (host)", done.stdout)
            self.assertEqual(self.hash(self.folder / "run"), alone)

    def test_launch_refuses_hosts_that_it_cannot_use(self):
        job = self.job()

        def launch(hosts, code, program=PEAL):
            said = testbed("exec", "h1", program, "launch", "--hosts", hosts, job)
            self.assertEqual(said.returncode, code, said.stdout + said.stderr)
            self.assertFalse((self.folder / "run").exists())
            return said.stderr

        self.assertIn("h9: is no host that is known here", launch("h1,h9", 2))
        self.assertEqual(testbed("exec", "h1", "cp", PEAL, "/tmp/only-here").returncode, 0)
        self.assertIn("h2: has no program /tmp/only-here", launch("h1,h2", 2, "/tmp/only-here"))
        testbed("link", "h2", "down")
        try:
            self.assertRegex(launch("h1,h2", 3), r"h2: cannot be reached: .*; `ssh h2 true` must")
        finally:
            testbed("link", "h2", "up")

    def test_a_cut_cable_is_named(self):
        job = self.job(limit=4000, epochs=4000,
                       extra="eval { every_epochs: 0 }\ncheckpoint { every_steps: 5 }\n")
        process = subprocess.Popen(
            [*TESTBED, "mpirun", "1", PEAL, "train", job, "--set", "parallel.deadline_seconds=2"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        checkpoints = self.folder / "run/checkpoints"
        self.wait_for(lambda: any(checkpoints.glob("step-*/manifest*")))
        self.assertEqual(testbed("link", "h2", "down").returncode, 0)
        start = time.monotonic()
        try:
            # Rank 0 ends by itself, 3; mpirun may wait longer for the host that it cannot reach.
            self.wait_for(lambda: not self.running_on("h1"), 10)
            self.assertLess(time.monotonic() - start, 10)
            self.wait_for(lambda: not self.running_on("h2"), 10)
        finally:
            testbed("link", "h2", "up")
            os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        self.assertRegex(errors, r"rank 0 step \d+: waited 2 s in "
                                 r"(all_reduce.*|all_gather \"times\"); (rank 1|data of rank 1)")
        self.assertEqual(run(["inspect", self.folder / "run"]).returncode, 0)

    def running_on(self, host):
        listing = testbed("exec", host, "ps", "-eo", "args").stdout
        return [line for line in listing.splitlines() if line.startswith(f"{PEAL} train")]

    def wait_for(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, "waited in vain")
            time.sleep(0.05)

    def test_wrong_use(self):
        for words, expected in ((["up", "0"], "1 to 99"), (["up", 2], "'down' ends it"),
                                (["exec", "h9", "true"], "h1 h2"), (["link", "h1", "sideways"], "up"),
                                (["rate", "fast"], "1gbit"), (["fly"], "fly"),
                                (["mpirun", "none"], "number of ranks")):
            said = testbed(*words)
            self.assertEqual(said.returncode, 2, said.stderr)
            self.assertIn(expected, said.stderr)

    def test_zz_down_leaves_no_trace(self):
        self.assertEqual(testbed("down").returncode, 0)
        self.assertEqual(traces(), self.before)
        self.assertFalse((self.shared / "testbed").exists())
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        self.assertNotIn(f"{self.shared}/testbed/sshd_config", listing)


if __name__ == "__main__":
    unittest.main()
