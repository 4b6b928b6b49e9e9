"""Ctrl-C and SIGTERM: the run saves, ends cleanly and goes on from there with the same command."""
import json
import os
import signal
import subprocess
import time
import unittest

from peal_cli import MPI_ENVIRONMENT, PEAL, PealTest, run, start

# mpirun waits this long before it tells its ranks to end, and again before it kills them: a second,
# which is the default, may be too short to save on a slow disk.
MPI_ENVIRONMENT["OMPI_MCA_odls_base_sigkill_timeout"] = "3"


class Stop(PealTest):
    def wait_for_steps(self, process):
        # The first line of metrics is written after step 5.
        path = self.folder / "run" / "metrics.jsonl"
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if path.exists() and path.read_text().count("\n") >= 2:
                return
            self.assertIsNone(process.poll(), "ended before it was stopped")
            time.sleep(0.01)
        self.fail("no metrics after 60 s")

    def check_stop_and_resume(self, number, ranks):
        job = self.job(limit=4000, epochs=2000)
        process = start(["train", job], ranks)
        self.wait_for_steps(process)
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=30)
        self.assertIn("stopped after step", output)
        if ranks == 0:
            self.assertEqual(process.returncode, 0, output)
        self.check_resume(job)

    def check_resume(self, job):
        self.assertFalse(list((self.folder / "run" / "checkpoints").glob(".tmp-*")))
        done = run(["inspect", self.folder / "run"])
        self.assertEqual(done.returncode, 0, done.stderr)
        step = int(done.stdout.split("step ")[1].split(",")[0])
        self.assertGreater(step, 0)
        steps = step + 40
        resumed = self.train(job, 2, [f"train.max_steps={steps}"])
        self.assertIn(f"going on after step {step}", resumed)
        straight = self.folder / "straight"
        self.train(job, 1, [f"train.max_steps={steps}", f"run.directory={straight}"])
        self.assertEqual(self.hash(self.folder / "run"), self.hash(straight))

    def test_sigterm_alone(self):
        self.check_stop_and_resume(signal.SIGTERM, 0)

    def test_sigint_alone(self):
        self.check_stop_and_resume(signal.SIGINT, 0)

    def test_many_signals_disturb_nothing(self):
        # Each interrupts a kernel somewhere: of several hundred some do where it would hurt.
        job = self.job(limit=4000, epochs=2000)
        process = start(["train", job, "--set", "train.max_steps=1500"])
        self.wait_for_steps(process)
        while process.poll() is None:
            os.kill(process.pid, signal.SIGUSR2)
            time.sleep(0.001)
        output, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, output)
        straight = self.folder / "straight"
        self.train(job, 0, ["train.max_steps=1500", f"run.directory={straight}"])
        self.assertEqual(self.hash(self.folder / "run"), self.hash(straight))

    def test_sigint_to_mpirun(self):
        self.check_stop_and_resume(signal.SIGINT, 3)

    def test_sigterm_to_mpirun(self):
        self.check_stop_and_resume(signal.SIGTERM, 2)

    def test_late_signals_kill_no_rank(self):
        job = self.job(limit=4000, epochs=2000)
        process = start(["train", job], 2)
        self.wait_for_steps(process)
        ranks = [int(pid) for pid in subprocess.run(["pgrep", "-P", str(process.pid)],
                                                    capture_output=True, text=True).stdout.split()]
        self.assertEqual(len(ranks), 2)
        # As a batch system does it, host after host: rank 1 hears of it when the run has stopped.
        os.kill(ranks[0], signal.SIGTERM)
        while process.poll() is None:
            if self.status() == "stopped":
                for rank in ranks:
                    try:
                        os.kill(rank, signal.SIGTERM)
                        os.kill(rank, signal.SIGUSR1)
                    except ProcessLookupError:
                        pass
        output, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, output)
        self.check_resume(job)

    def status(self):
        return json.loads((self.folder / "run/status.json").read_text())["state"]

    def check_launch(self, number):
        job = self.job(limit=4000, epochs=2000)
        process = start(["launch", "-n", 2, job])
        self.wait_for_steps(process)
        begin = time.monotonic()
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=30)
        # Had mpirun told the ranks, after 2 s, it would not end with 0.
        self.assertLess(time.monotonic() - begin, 5, output)
        self.assertIn("stopping: the ranks finish a step", output)
        self.assertIn("stopped after step", output)
        self.assertEqual(process.returncode, 0, output)
        self.check_resume(job)

    def test_sigint_to_launch(self):
        self.check_launch(signal.SIGINT)

    def test_sigterm_to_launch(self):
        self.check_launch(signal.SIGTERM)

    def test_launch_that_is_killed_leaves_no_ranks(self):
        job = self.job(limit=4000, epochs=2000)
        process = start(["launch", "-n", 2, job])
        self.wait_for_steps(process)
        process.kill()
        process.communicate(timeout=30)
        end = time.monotonic() + 30
        while subprocess.run(["pgrep", "-f", str(job)], capture_output=True).returncode == 0:
            self.assertLess(time.monotonic(), end, "ranks are left")
            time.sleep(0.1)

    def test_a_reader_that_stops_reading_holds_nothing_up(self):
        # The pipe is filled while it trains; nobody reads until the run has been told to stop.
        job = self.job(limit=4000, epochs=2000, extra="eval { every_epochs: 0 }\n")
        process = start(["train", job, "--set", "run.log_every_steps=1"])
        self.addCleanup(process.kill)
        self.wait_for_steps(process)  # it does not heed signals before
        self.fill(f"/proc/{process.pid}/fd/1")
        time.sleep(2)  # a line is due every second
        steps, end = self.steps(), time.monotonic() + 60
        while self.steps() < steps + 20:
            self.assertLess(time.monotonic(), end, "it waits for its reader")
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 0, output)
        self.assertIn("stopped after step", output)

    def fill(self, pipe):
        fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(fd, b"x" * 4096)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)

    def steps(self):
        return (self.folder / "run/metrics.jsonl").read_text().count("\n")

    def test_launch_prints_and_runs(self):
        job = self.job(limit=200, epochs=1)
        dry = run(["launch", "-n", 2, job, "--set", "train.seed=5", "--dry-run"])
        self.assertEqual(dry.returncode, 0, dry.stderr)
        self.assertTrue(dry.stdout.startswith("mpirun -np 2 "), dry.stdout)
        self.assertIn("--set train.seed=5", dry.stdout)
        self.assertFalse((self.folder / "run").exists())
        printed = subprocess.run(dry.stdout, shell=True, capture_output=True, text=True,
                                 timeout=60, env=MPI_ENVIRONMENT)
        self.assertEqual(printed.returncode, 0, printed.stderr)
        by_hand = self.hash(self.folder / "run")
        wet = subprocess.run([PEAL, "launch", "-n", "2", job, "--set", "train.seed=5", "--fresh"],
                             capture_output=True, text=True, timeout=60, env=MPI_ENVIRONMENT)
        self.assertEqual(wet.returncode, 0, wet.stderr)
        self.assertEqual(self.hash(self.folder / "run"), by_hand)


if __name__ == "__main__":
    unittest.main()
