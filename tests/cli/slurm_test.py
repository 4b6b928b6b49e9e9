"""Jobs under a real Slurm, on the hosts of cluster/testbed.sh: the Fashion-MNIST job ends with one
hash however it is started, and after the time limit, preemption and scancel goes on to that hash."""
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import unittest

from bed import TESTBED, BedTest, testbed, traces
from elastic import ranks_of
from peal_cli import PEAL, SOURCE, run

JOB = SOURCE / "examples/fashion_mnist_cnn.textproto"
STEPS = 100
# At this rate the gradients of two hosts take about a second a step, whatever the processors do, so
# that the job takes longer than the one minute that the partition `short` gives.
SLOW = "25mbit"
LATE_FENCE = os.environ.get("PEAL_LATE_FENCE",
                            str(pathlib.Path(PEAL).parent / "tests/liblate_fence.so"))


class Slurm(BedTest):
    UP = (4, "--slurm")
    reference = None

    def words(self, name="run"):
        """The job and what is set in it."""
        return [str(JOB), "--set", f"train.max_steps={STEPS}", "--set", "eval.every_epochs=0",
                "--set", f"run.directory={self.folder / name}", "--set", "run.tensorboard=false"]

    def on(self, host, *words, code=0, **options):
        done = testbed("exec", host, *words, **options)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def start(self, *words):
        """A command on `control` that goes on beside the test."""
        process = subprocess.Popen([*TESTBED, "exec", "control", *map(str, words)],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   start_new_session=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def expected(self):
        """The hash of the job on one rank, without MPI."""
        if Slurm.reference is None:
            done = run(["train", *self.words("reference")])
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            Slurm.reference = self.hash(self.folder / "reference")
        return Slurm.reference

    def slow(self):
        self.assertEqual(testbed("rate", SLOW).returncode, 0)
        self.addCleanup(testbed, "rate", "none")

    def status(self):
        try:
            return json.loads((self.folder / "run/status.json").read_text())
        except FileNotFoundError:
            return {"state": "none", "step": 0, "restarts": 0}

    def wait_for(self, condition, process, seconds):
        end = time.monotonic() + seconds
        while not condition():
            self.assertIsNone(process.poll(), "it ended before")
            self.assertLess(time.monotonic(), end, f"waited in vain; {self.status()}")
            time.sleep(0.1)

    def job_of(self, process):
        line = process.stdout.readline()
        self.assertRegex(line, r"^job \d+: script .*/job\.sbatch, log .*\.log$")
        return line.split()[1].rstrip(":")

    def scontrol(self, job):
        return testbed("scontrol", "--oneliner", "show", "job", job).stdout

    def test_doctor_in_an_allocation(self):
        done = testbed("exec", "control", "salloc", "--quiet", "--nodes", 2, PEAL, "doctor", "--json",
                       "--directory", self.folder)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((len(report["hosts"]), report["faults"], len(report["pairs"])), (2, 0, 2))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_srun_reaches_every_host(self):
        said = testbed("srun", "--nodes", 4, "--ntasks-per-node", 2, "hostname").stdout
        self.assertEqual(sorted(said.split()), sorted(["h1", "h2", "h3", "h4"] * 2))

    def test_one_hash_through_mpirun_srun_and_submit(self):
        wanted = self.expected()
        for name, hosts in (("1x4", "h1:4"), ("2x2", "h1:2,h2:2"), ("4x1", "h1,h2,h3,h4")):
            said = self.on("h1", PEAL, "launch", "--hosts", hosts, *self.words(name))
            self.assertIn("4 ranks (host)", said)
            self.assertEqual(self.hash(self.folder / name), wanted, name)
        said = testbed("srun", "--mpi=pmix", "--nodes", 2, "--ntasks-per-node", 2, PEAL, "train",
                       *self.words("srun"))
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)
        self.assertIn("4 ranks (host)", said.stdout)
        self.assertEqual(self.hash(self.folder / "srun"), wanted)
        said = self.on("control", PEAL, "submit", "--nodes", 2, "--ranks-per-node", 2, "--follow",
                       *self.words("submit"))
        self.assertIn("4 ranks (host)", said)
        self.assertRegex(said, r"job \d+: COMPLETED")
        self.assertEqual(self.hash(self.folder / "submit"), wanted)

    def test_a_rank_that_is_late_in_MPI_Init(self):
        """This Slurm lets a host's ranks leave MPI_Init before those of others: what they sent to one
        inside it ended that one with a segmentation fault."""
        for late in range(4):
            said = testbed("srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--nodes", 2,
                           "--ntasks-per-node", 2, "env", f"LATE_RANK={late}",
                           f"LD_PRELOAD={LATE_FENCE}", PEAL, "train", *self.words(str(late)), "--set",
                           "train.max_steps=1", timeout=60)
            self.assertEqual(said.returncode, 0, said.stdout + said.stderr)
            self.assertIn("4 ranks (host)", said.stdout)

    def test_launch_in_an_allocation_takes_srun(self):
        said = testbed("salloc", "--nodes", 2, "--ntasks-per-node", 2, PEAL, "launch", "--env",
                       "PEAL_COLOUR=deep blue", "--interface", "eth0", "--dry-run", *self.words())
        self.assertRegex(said.stdout, r"(?m)^env .*OMPI_MCA_btl_tcp_if_include=eth0 "
                                      r"'PEAL_COLOUR=deep blue' srun --mpi=pmix .*/peal train ")
        said = testbed("salloc", "--nodes", 2, "--ntasks-per-node", 1, PEAL, "launch",
                       *self.words(), "--set", "train.max_steps=2")
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)
        self.assertIn("2 ranks (host)", said.stdout)
        said = testbed("salloc", PEAL, "launch", "--hosts", "h1", *self.words())
        self.assertEqual(said.returncode, 2)
        self.assertIn("Slurm has chosen the hosts", said.stderr)

    def test_ranks_keep_to_their_share(self):
        """The plugins of this Slurm bind nothing, so the ranks do, where it gave the job all of a
        host: it believes in 8 processors, and hosts have those of this machine."""
        cores = os.cpu_count()
        self.assertGreaterEqual(cores, 2)
        part = r"binding: not bound: Slurm gave \d of the \d+ CPUs of host h\d and does not hold"
        cases = [(1, 1, "auto", part + ".*; 1 virtual ranks at a time"),
                 (2, min(cores, 8) // 2, "auto", "binding: CPU" if cores <= 8 else part)]
        if cores <= 8:
            cases.append((2, cores // 2, "core", r"binding: CPUs? [\d,-]+: 1 core of "))
        for tasks, each, bind, told in cases:
            name = f"{tasks}-{bind}"
            said = testbed("salloc", "--nodes", 2, "--ntasks-per-node", tasks, "--cpus-per-task", each,
                           PEAL, "launch", "--bind", bind, *self.words(name), "--set",
                           "train.max_steps=1")
            self.assertEqual(said.returncode, 0, said.stdout + said.stderr)
            logs = sorted((self.folder / name / "logs").glob("rank-*.log"))
            self.assertEqual(len(logs), 2 * tasks)
            for log in logs:
                self.assertRegex(log.read_text(), told)

    def test_tasks_that_do_not_find_one_another(self):
        said = testbed("srun", "--mpi=none", "--ntasks", 2, PEAL, "train", *self.words())
        self.assertEqual(said.returncode, 2, said.stdout + said.stderr)
        self.assertIn("2 tasks without PMIx", said.stderr)
        self.assertIn("srun --mpi=pmix", said.stderr)

    def test_a_time_limit_shorter_than_the_job(self):
        wanted = self.expected()
        self.slow()
        process = self.start(PEAL, "submit", "--nodes", 2, "--ranks-per-node", 2, "--partition",
                             "short", "--stop-before", 30, "--requeue", "--follow", *self.words())
        self.job_of(process)
        self.wait_for(lambda: self.status()["state"] == "stopped", process, 90)
        stopped = self.status()["step"]
        self.assertTrue(0 < stopped < STEPS, stopped)
        testbed("rate", "none")
        said, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, said)
        self.assertIn(f"stopped after step {stopped}", said)
        self.assertIn(f"going on after step {stopped}", said)
        self.assertRegex(said, r"COMPLETED, restarts 1")
        self.assertEqual(self.hash(self.folder / "run"), wanted)
        self.assertEqual(self.status()["restarts"], 1)
        self.assertEqual(self.status()["hosts"], ["h1", "h2"])

    def test_preempted_by_an_urgent_job(self):
        wanted = self.expected()
        self.slow()
        process = self.start(PEAL, "submit", "--nodes", 4, "--ranks-per-node", 1, "--requeue",
                             "--follow", *self.words())
        self.job_of(process)
        self.wait_for(lambda: self.status()["step"] > 1, process, 120)
        urgent = testbed("srun", "--partition", "urgent", "--nodes", 4, "--exclusive", "hostname")
        self.assertEqual(urgent.returncode, 0, urgent.stderr)
        testbed("rate", "none")
        said, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, said)
        self.assertIn("stopped after step", said)
        self.assertRegex(said, r"going on after step \d+")
        self.assertEqual(self.hash(self.folder / "run"), wanted)

    def test_scancel_leaves_a_checkpoint_that_loads(self):
        self.slow()
        process = self.start(PEAL, "submit", "--nodes", 2, "--ranks-per-node", 2, "--requeue",
                             "--follow", *self.words())
        job = self.job_of(process)
        self.wait_for(lambda: self.status()["step"] > 1, process, 120)
        self.assertEqual(testbed("scancel", job).returncode, 0)
        # At full speed it could end before it hears of that.
        end = time.monotonic() + 60
        while self.status()["state"] == "running" and time.monotonic() < end:
            time.sleep(0.1)
        testbed("rate", "none")
        said, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 3, said)
        self.assertRegex(said, rf"job {job}: CANCELLED")
        self.assertEqual(self.status()["state"], "stopped", said)
        stopped = self.status()["step"]
        inspected = run(["inspect", self.folder / "run"])
        self.assertEqual(inspected.returncode, 0, inspected.stderr)
        self.assertIn(f"step {stopped},", inspected.stdout)
        time.sleep(8)  # a requeued job would have started again by now
        self.assertRegex(self.scontrol(job), r"JobState=CANCELLED .*Restarts=0")
        done = run(["train", *self.words()], 3)
        self.assertIn(f"going on after step {stopped}", done.stdout)
        self.assertEqual(self.hash(self.folder / "run"), self.expected())

    def test_an_elastic_run_grows_with_its_allocation(self):
        self.slow()
        process = subprocess.Popen(
            [*TESTBED, "exec", "h1", "salloc", "--no-kill", "--nodelist", "h1,h2", "--nodes", "2", PEAL,
             "launch", "--elastic", "2:4", "--settle", "1", *self.words(), "--set",
             "parallel.virtual_ranks=4"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.wait_for(lambda: self.status()["step"] > 1, process, 60)
        self.assertEqual(self.status()["hosts"], ["h1", "h2"])
        job = testbed("squeue", "--noheader", "--format", "%i").stdout.strip()
        # As Slurm's FAQ says: another job gives its hosts to this one.
        grown = testbed("salloc", "--nodelist", "h3,h4", "--nodes", 2, f"--dependency=expand:{job}",
                        "sh", "-c", f"cd {self.folder}; scontrol update jobid=$SLURM_JOB_ID NumNodes=0")
        self.assertEqual(grown.returncode, 0, grown.stderr)
        self.wait_for(lambda: self.status()["hosts"] == ["h1", "h2", "h3", "h4"], process, 60)
        supervisors = ranks_of(JOB, "launch")
        for pid in supervisors:  # a thread that blocked no signals would let one end the process
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                blocked = re.search(r"SigBlk:\s+(\w+)", (task / "status").read_text())[1]
                if task.name != str(pid):
                    self.assertTrue(int(blocked, 16) >> (signal.SIGINT - 1) & 1, blocked)
            os.kill(pid, signal.SIGINT)
        self.assertTrue(supervisors)
        said, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, said)
        self.assertEqual(self.status()["state"], "stopped", said)
        stopped = self.status()["step"]
        testbed("rate", "none")
        done = run(["train", *self.words()], 3)
        self.assertIn(f"going on after step {stopped}", done.stdout)
        self.assertIn(f"hosts as job {job} of Slurm names them now: h1:1,h2:1,h3:1,h4:1", said)
        self.assertEqual(self.hash(self.folder / "run"), self.expected())

    def test_an_array_has_a_folder_for_each_task(self):
        said = self.on("control", PEAL, "submit", "--array", "1-2", *self.words(), "--set",
                       "train.seed=%a", "--set", "train.max_steps=3")
        job = re.match(r"job (\d+):", said)[1]
        for task in "12":
            status = self.folder / f"run/task-{task}/status.json"
            end = time.monotonic() + 60
            while not status.exists() or json.loads(status.read_text())["state"] != "finished":
                self.assertLess(time.monotonic(), end, self.scontrol(job))
                time.sleep(0.2)
            effective = (self.folder / f"run/task-{task}/job.textproto").read_text()
            self.assertIn(f"seed: {task}\n", effective)

    def test_what_sbatch_refuses(self):
        said = self.on("control", PEAL, "submit", "--partition", "nowhere", *self.words(), code=2)
        self.assertIn("invalid partition", said)
        said = self.on("control", PEAL, "submit", "--time", "soon", *self.words(), code=2)
        self.assertIn("time", said)

    def test_a_failing_job_ends_with_its_own_code(self):
        said = self.on("control", PEAL, "submit", "--nodes", 2, "--follow", *self.words(), "--set",
                       "data.train.idx.images=/nowhere.gz", code=2)
        self.assertIn("/nowhere.gz", said)
        self.assertRegex(said, r"job \d+: FAILED")

    def test_zz_down_leaves_no_trace(self):
        submitted = self.start(PEAL, "submit", "--nodes", 2, "--follow", *self.words(), "--set",
                               "train.max_steps=90000")
        self.wait_for(lambda: self.status()["step"] > 1, submitted, 120)
        self.assertEqual(testbed("down").returncode, 0)
        self.assertEqual(traces(), self.before)
        self.assertFalse((self.shared / "testbed").exists())
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        left = [line for line in listing.splitlines()
                if str(self.shared) in line and re.search(r"munged|slurm|peal", line)]
        self.assertEqual(left, [])


if __name__ == "__main__":
    unittest.main()
