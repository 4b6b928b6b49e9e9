"""A job that hangs or loses a rank: every living rank ends with exit 3 and names the culprit, the
flight records name the same one; SIGUSR2 writes them and disturbs nothing."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import unittest

from peal_cli import MPI_ENVIRONMENT, PEAL, PealTest, kill_tree, run, start

RANKS = 3


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Flight(PealTest):
    def setUp(self):
        super().setUp()
        self.run_directory = self.folder / "run"
        self.codes = self.folder / "codes"
        self.codes.mkdir()

    def start_ranks(self, job, *overrides):
        """Each rank below a shell that keeps its exit code and waits for the end of the test, so
        that mpirun, which ends a job when its first rank ends, does not come first."""
        script = ('trap : USR2; "$@"; code=$?; echo $code > $CODES/$OMPI_COMM_WORLD_RANK; '
                  'while [ ! -e $CODES/end ]; do sleep 0.1; done; exit $code')
        process = subprocess.Popen(
            ["mpirun", "-np", str(RANKS), "sh", "-c", script, "rank", PEAL, "train", str(job),
             *(word for o in overrides for word in ("--set", o))],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**MPI_ENVIRONMENT, "CODES": str(self.codes)})
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        (self.codes / "end").touch()
        if process.poll() is None:
            kill_tree(process)
        process.wait()
        process.stdout.close()

    def wait_until(self, what, condition, process, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            self.assertIsNone(process.poll(), f"the job ended: no {what}")
            time.sleep(0.01)
        self.fail(f"no {what} after {seconds} s")

    def wait_for_steps(self, process, lines=2):
        path = self.run_directory / "metrics.jsonl"  # a line every five steps
        self.wait_until("metrics", lambda: path.exists() and
                        path.read_text().count("\n") >= lines, process)

    def pids(self, process):
        """Of the program on each rank, by rank."""
        pids = {}
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                environment = (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            values = dict(e.split(b"=", 1) for e in environment if b"=" in e)
            if words[0] == PEAL.encode() and values.get(b"CODES") == str(self.codes).encode():
                pids[int(values[b"OMPI_COMM_WORLD_RANK"])] = int(path.name)
        self.assertEqual(sorted(pids), list(range(RANKS)))
        return [pids[rank] for rank in range(RANKS)]

    def code(self, rank):
        try:
            return int((self.codes / str(rank)).read_text())
        except (OSError, ValueError):
            return None

    def records(self):
        return {p.name for p in (self.run_directory / "flight").glob("*")}

    def inspect(self, *flags, directory=None):
        result = run(["inspect", "flight", directory or self.run_directory, *flags])
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def check_culprit(self, number, culprit, deadline):
        process = self.start_ranks(self.job(limit=4000, epochs=2000),
                                   f"parallel.deadline_seconds={deadline}")
        self.wait_for_steps(process)
        pid = self.pids(process)[culprit]
        os.kill(pid, number)
        start_of_wait = time.monotonic()
        living = [rank for rank in range(RANKS) if rank != culprit]
        self.wait_until("end of the living ranks",
                        lambda: all(self.code(rank) is not None for rank in living), process, 20)
        self.assertLess(time.monotonic() - start_of_wait, 10)
        self.assertEqual([self.code(rank) for rank in living], [3] * len(living))
        self.assertEqual(self.records(), {f"flight-rank-{rank}.jsonl" for rank in living})
        if number == signal.SIGSTOP:
            self.assertTrue(running(pid))
            os.kill(pid, signal.SIGKILL)
        (self.codes / "end").touch()
        output, _ = process.communicate(timeout=20)
        # Behind the progress line; mpirun may put two on one line.
        said = re.findall(rf"peal: (?:(?!peal: ).)*rank {culprit} ", output)
        self.assertEqual(len(said), len(living), output)

        text = self.inspect()
        self.assertRegex(text.splitlines()[0],
                         rf"^verdict: rank {culprit} is late for call \d+, \w+ \"[^\"]+\" .*in which "
                         rf"ranks {living[0]} and {living[1]} wait since .* UTC")
        self.assertRegex(text, rf"(?m)^  no file from rank {culprit}: killed or stopped")
        self.assertRegex(text, rf"(?m)^  cause: .*rank {culprit} ")
        for rank in living:
            self.assertRegex(text, rf"(?m)^rank {rank} \(.*\): step \d+, \d+ calls made, \d+ "
                                   rf"finished; written .* on failure$")
        verdict = json.loads(self.inspect("--json"))
        self.assertEqual(verdict["verdict"], "late")
        self.assertEqual(verdict["missing"], [culprit])
        self.assertEqual(verdict["late"], [])
        self.assertEqual(verdict["waiting"], living)
        self.assertEqual([r["rank"] for r in verdict["ranks"]], living)
        for rank in verdict["ranks"]:
            open_call = next(c for c in rank["calls"] if c["call"] == verdict["call"])
            self.assertEqual(open_call["state"], "failed")
            self.assertEqual(open_call["what"], verdict["what"])
        return verdict["waited_seconds"]

    def test_a_stopped_rank(self):
        self.assertGreaterEqual(self.check_culprit(signal.SIGSTOP, 1, 2), 1.9)

    def test_a_killed_rank(self):
        # Nobody needs to wait for the deadline.
        self.assertLess(self.check_culprit(signal.SIGKILL, 2, 60), 1.9)

    def test_mpirun_ends_the_job_and_the_records_are_there(self):
        # As users run it: no shell between, and mpirun kills the others when one rank is gone.
        process = start(["train", self.job(limit=4000, epochs=2000), "--set",
                         "parallel.deadline_seconds=2"], RANKS)
        self.addCleanup(process.stdout.close)
        self.wait_for_steps(process)
        pids = [pid for pid in kill_tree(process, 0) if pid != process.pid]
        os.kill(pids[0], signal.SIGKILL)
        process.communicate(timeout=20)
        verdict = json.loads(self.inspect("--json"))
        self.assertEqual(verdict["verdict"], "late")
        self.assertEqual(len(verdict["missing"]), 1)

    def test_sigusr2_disturbs_nothing(self):
        job = self.job(limit=2000, epochs=30)  # still at work when the last signal comes
        process = self.start_ranks(job)
        self.wait_for_steps(process)
        os.kill(self.pids(process)[1], signal.SIGUSR2)
        self.wait_until("record of rank 1",
                        lambda: self.records() == {"flight-rank-1.jsonl"}, process)
        first = self.folder / "first"
        shutil.copytree(self.run_directory / "flight", first)
        lines = (self.run_directory / "metrics.jsonl").read_text().count("\n")
        self.wait_for_steps(process, lines + 1)  # or it has made no call since
        os.kill(process.pid, signal.SIGUSR2)  # mpirun passes it on to all ranks
        self.wait_until("record of every rank", lambda: self.records() == {
            f"flight-rank-{rank}.jsonl" for rank in range(RANKS)}, process)
        verdict = json.loads(self.inspect("--json", directory=first))
        self.assertEqual((verdict["verdict"], verdict["missing"]), ("clear", [0, 2]))
        self.assertEqual(verdict["ranks"][0]["why"], "SIGUSR2")
        made = verdict["ranks"][0]["made"]
        self.assertGreater(made, 10)
        self.wait_until("end", lambda: all(self.code(r) == 0 for r in range(RANKS)), process)
        text = self.inspect("--calls", "20")
        self.assertTrue(text.startswith("verdict: no rank is stuck"), text)
        last = int(re.findall(r"(\d+) calls made", text)[1])
        self.assertGreater(last, made)
        (self.codes / "end").touch()
        process.communicate(timeout=20)
        straight = self.folder / "straight"
        self.train(job, 1, [f"run.directory={straight}"])
        self.assertEqual(self.hash(self.run_directory), self.hash(straight))
        self.assertFalse((straight / "flight").exists())

    def test_bad_arguments_and_files_are_named(self):
        none = run(["inspect", "flight", self.folder])
        self.assertEqual(none.returncode, 2)
        self.assertIn(f"{self.folder}: holds no flight-rank-*.jsonl", none.stderr)
        bad = self.folder / "flight-rank-0.jsonl"
        bad.write_text('{"peal_flight":1}\n{"calls":0,"xxh64":"0123456789abcdef"}\n')
        damaged = run(["inspect", "flight", self.folder])
        self.assertEqual(damaged.returncode, 2)
        self.assertIn(f"{bad}: is damaged: its checksum does not match", damaged.stderr)
        self.assertEqual(run(["inspect"]).returncode, 2)
        self.assertEqual(run(["inspect", "flight"]).returncode, 2)


if __name__ == "__main__":
    unittest.main()
