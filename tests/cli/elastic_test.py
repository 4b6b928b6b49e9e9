"""`peal launch --elastic` on one host: ranks that die, memory that is damaged, a budget that is
spent; every run that goes on ends with the weights of one that was never disturbed."""
import json
import os
import random
import re
import signal
import time
import unittest

from elastic import ElasticTest, Launched, MemoryFile, children_of, is_stopped, kill, ranks_of, states
from peal_cli import PEAL, kill_tree, run, start

LONG = {"limit": 4000, "epochs": 2000,
        "extra": "eval { every_epochs: 0 }\ncheckpoint { every_steps: 1000 }\n"}


class Elastic(ElasticTest):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"
        self.before = states()

    def launch(self, job, *words):
        launched = Launched([PEAL, "launch", *words, job])
        self.addCleanup(launched.stop)
        return launched

    def status(self):
        try:
            return json.loads((self.run_folder / "status.json").read_text())
        except (OSError, ValueError):
            return {"step": -1, "first_step": 0, "state": ""}

    def wait_for_steps(self, launched, starts=1, more=15):
        """Until that many starts have come so many steps further."""
        self.wait_for(lambda: launched.count("going on after step") >= starts - 1 and
                      self.status()["step"] >= self.status()["first_step"] + more, 60,
                      f"for start {starts}", launched)

    def stop(self, launched):
        os.kill(launched.process.pid, signal.SIGINT)
        self.assertEqual(launched.end(), 0, launched.text())
        self.assertIn("stopped after step", launched.text())
        return self.status()["step"]

    def test_ranks_that_are_killed(self):
        job = self.job(**LONG)
        launched = self.launch(job, "-n", 4, "--elastic", "1:4")
        moments = random.Random(4)
        for k in range(3):
            self.wait_for_steps(launched, k + 1)
            time.sleep(moments.uniform(0, 0.5))
            ranks = ranks_of(job)
            self.assertEqual(len(ranks), 4)
            kill([moments.choice(ranks)])
            self.wait_for(lambda: len(self.recoveries(launched)) == k + 1, 30, "for a recovery",
                          launched)
        self.wait_for_steps(launched, 4)
        said = run(["status", self.run_folder]).stdout
        self.assertRegex(said, r"restarts +3\n")
        self.assertRegex(said, r"memory +every \d+ steps\n")
        step = self.stop(launched)
        went_on = re.findall(r"from the memory of rank \d+ .*; (\d+) finished steps are done again, "
                             r"states were kept every (\d+)", launched.text())
        self.assertEqual(len(went_on), 3, launched.text())
        for again, every in went_on:
            self.assertLessEqual(int(again), int(every))
        self.assertEqual(states(), self.before)
        self.check_end(job, self.run_folder, step)

    def test_a_stuck_rank(self):
        job = self.job(**LONG)
        launched = self.launch(job, "-n", 3, "--elastic", "1:3", "--set",
                               "parallel.deadline_seconds=2")
        self.wait_for_steps(launched)
        kill([ranks_of(job)[1]], signal.SIGSTOP)
        self.wait_for_steps(launched, 2)
        self.assertRegex(launched.text(), r"fault: rank \d+ step \d+: waited 2 s .*rank \d")
        self.check_end(job, self.run_folder, self.stop(launched))

    def killed(self, job):
        """A run without a supervisor, killed with newer states in memory than on disk: both slots
        whole. Also returns the step of the newest checkpoint."""
        arguments = ["train", job, "--set", "checkpoint.memory_every_steps=3", "--set",
                     "checkpoint.every_steps=40"]
        process = start(arguments, 2)
        self.addCleanup(lambda: process.poll() is None and kill_tree(process))
        memory = None

        def newest_on_disk():
            manifests = (self.run_folder / "checkpoints").glob("step-*/manifest.pb")
            return max((int(path.parent.name[5:]) for path in manifests), default=0)

        def newer_in_memory():
            try:
                return memory.slots()[1][0] > newest_on_disk() >= 40
            except (OSError, IndexError):
                return False

        # Looked at while they stand still, so that it is still so when they are killed.
        def stopped_there():
            ranks = ranks_of(job)
            kill(ranks, signal.SIGSTOP)
            self.wait_for(lambda: all(is_stopped(pid) for pid in ranks), what="for ranks to stop")
            if newer_in_memory():
                return True
            kill(ranks, signal.SIGCONT)
            return False

        self.wait_for((self.run_folder / ".run").exists)
        memory = MemoryFile(self.run_folder)
        self.wait_for(lambda: newer_in_memory() and stopped_there())
        kill_tree(process)
        process.communicate()
        return arguments, memory, newest_on_disk()

    def test_damaged_memory_is_named_and_passed_over(self):
        job = self.job(**LONG)
        for damaged in (0, 1, 2):
            with self.subTest(damaged=damaged):
                arguments, memory, on_disk = self.killed(job)
                (newest, _), (older, _) = memory.slots()
                self.assertEqual(newest - older, 3)
                for slot in range(damaged):
                    memory.flip(slot)
                steps = newest + 20
                done = run([*arguments, "--set", f"train.max_steps={steps}"], 2)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertEqual(done.stderr.count("is damaged and passed over"), damaged)
                if damaged == 2:
                    self.assertIn(f"going on after step {on_disk}\n", done.stdout)
                else:
                    step = (newest, older)[damaged]
                    self.assertIn(f"going on after step {step}, from the memory of rank 0",
                                  done.stdout)
                self.check_end(job, self.run_folder, steps)
                self.assertEqual(states(), self.before)
                run(["train", job, "--fresh", "--set", "train.max_steps=1"])

    def test_memory_that_is_not_this_runs(self):
        job = self.job(**LONG)
        _, memory, _ = self.killed(job)
        other = self.folder / "other"
        self.train(job, 2, [f"run.directory={other}", "checkpoint.memory_every_steps=2",
                            "train.max_steps=10"])
        self.assertTrue(memory.path.exists(), "another run's memory")
        done = run(["train", job, "--set", "checkpoint.memory_every_steps=3", "--set",
                    "train.seed=77", "--set", "train.max_steps=9", "--fresh"], 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("going on", done.stdout)
        self.assertFalse(memory.path.exists(), "left by a run that --fresh forgot")

    def test_the_budget(self):
        job = self.job(**LONG)
        launched = self.launch(job, "-n", 2, "--elastic", "1:2", "--max-restarts", 2)
        while launched.process.poll() is None:
            kill(ranks_of(job)[:1])
            time.sleep(0.01)
        self.assertEqual(launched.end(), 3, launched.text())
        self.assertEqual(launched.count("fault:"), 3)
        self.assertEqual(launched.count("restarting with 2 ranks"), 2)
        self.assertIn("the budget of 2 restarts without a new step (--max-restarts) is spent",
                      launched.text())
        self.assertIn("pausing 1 s", launched.text())
        self.assertEqual(ranks_of(job), [])

    def test_too_few_hosts(self):
        job = self.job(**LONG)
        launched = self.launch(job, "--hosts", "localhost:2", "--elastic", "3:4", "--wait", 2)
        self.assertEqual(launched.end(), 3, launched.text())
        self.assertIn("room for 2 of at least 3 ranks on localhost:2; waiting for hosts up to 2 s",
                      launched.text())
        self.assertIn("no 3 ranks found room within 2 s", launched.text())

    def test_stopped_while_it_waits_for_hosts(self):
        job = self.job(**LONG)
        launched = self.launch(job, "--hosts", "localhost:2", "--elastic", "3:4", "--wait", 600)
        self.wait_for(lambda: launched.count("waiting for hosts up to 600 s"), launched=launched)
        agents = children_of(launched.process.pid)
        self.assertEqual(len(agents), 1)
        os.kill(launched.process.pid, signal.SIGINT)
        self.assertEqual(launched.end(), 0, launched.text())
        self.assertIn("stopped while no ranks ran", launched.text())
        self.assertEqual(ranks_of(job, "launch") + ranks_of(job), [])
        self.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in agents))
        self.assertEqual(states(), self.before)

    def test_stopped_in_a_pause(self):
        job = self.job(**LONG)
        launched = self.launch(job, "-n", 2, "--elastic", "1:2", "--set",
                               "checkpoint.every_steps=1000000")
        self.wait_for_steps(launched)
        while not launched.count("pausing 4 s"):
            self.assertIsNone(launched.process.poll(), launched.text())
            kill(ranks_of(job)[:1])
            time.sleep(0.01)
        os.kill(launched.process.pid, signal.SIGINT)
        self.assertEqual(launched.end(), 0, launched.text())
        self.assertIn("stopped while no ranks ran", launched.text())
        # What only memory held has come to disk.
        saved = int(re.search(r"step (\d+) went from the memory of localhost to disk",
                              launched.text()).group(1))
        self.assertGreater(saved, 0)
        self.assertEqual(run(["status", self.run_folder, "--word"]).stdout.strip(), "stopped")
        self.assertEqual(ranks_of(job), [])
        self.assertEqual(states(), self.before)
        self.check_end(job, self.run_folder, saved)

    def test_what_another_start_would_not_mend(self):
        launched = self.launch(self.job(), "-n", 2, "--elastic", "1:2", "--set",
                               "optimizer.adam.learning_rate=1e30")
        self.assertEqual(launched.end(), 4, launched.text())
        self.assertIn("another start would not help", launched.text())
        self.assertEqual(launched.count("restarting"), 0)
        self.assertEqual(states(), self.before)

    def test_a_supervisor_that_is_killed_leaves_nothing(self):
        job = self.job(**LONG)
        launched = self.launch(job, "-n", 2, "--elastic", "1:2")
        self.wait_for_steps(launched)
        self.assertNotEqual(states(), self.before)
        launched.process.kill()
        launched.end()
        self.wait_for(lambda: not ranks_of(job) and states() == self.before, 40)
        self.assertEqual(run(["status", self.run_folder, "--word"]).stdout.strip(), "stopped")

    def test_what_it_prints_and_refuses(self):
        def dry(*words, code=0):
            done = run(["launch", *words, self.job(), "--dry-run"])
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
            self.assertFalse(self.run_folder.exists())
            return done.stdout if code == 0 else done.stderr

        said = dry("--elastic", "2:5", "--hosts", "a:2,b:2,c:2")
        self.assertIn("mpirun -np 5 --host a:2,b:2,c:1 ", said)
        self.assertRegex(said, r"-x PEAL_ELASTIC=[0-9a-f]{16}-[0-9a-f]{16} ")
        self.assertIn("mpirun -np 3 ", dry("--elastic", "1:4", "-n", "3"))
        self.assertIn("mpirun -np 8 ", dry("--elastic", "1:99"))  # virtual ranks
        for words, expected in ((["--elastic", "4"], "'4' is no range"),
                                (["--elastic", "3:2"], "'3:2' is no range"),
                                (["--elastic", "9:10"], "virtual_ranks allows 8"),
                                (["-n", "2", "--max-restarts", "3"], "--elastic"),
                                (["--elastic", "1:2", "--hosts", "a", "-n", "2"], "--ranks"),
                                (["--elastic", "1:2", "--timeline", "t"], "--timeline"),
                                (["--elastic", "1:2", "--with", "srun"], "leave out --with srun")):
            with self.subTest(words=words):
                self.assertIn(expected, dry(*words, code=2))


if __name__ == "__main__":
    unittest.main()
