"""`peal status`: what a run is doing, told from another terminal, while it runs and afterwards."""
import json
import os
import signal
import socket
import time
import unittest

from peal_cli import PealTest, kill_tree, run, start


class Status(PealTest):
    def status(self, code=0):
        done = run(["status", self.folder / "run", "--json"])
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def word(self, code=0):
        done = run(["status", self.folder / "run", "--word"])
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout.strip()

    def started(self, ranks=0, restarts=0):
        """A run that goes on for long and has finished some steps."""
        def steps():
            path = self.folder / "run/status.json"
            status = json.loads(path.read_text()) if path.exists() else {"restarts": -1}
            return status["step"] if status["restarts"] == restarts else 0

        process = start(["train", self.job(limit=4000, epochs=2000), "--set",
                         "checkpoint.every_steps=5"], ranks)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(kill_tree, process)
        end = time.monotonic() + 60
        while steps() <= 5:
            self.assertIsNone(process.poll(), "it ended")
            self.assertLess(time.monotonic(), end, "no step after 60 s")
            time.sleep(0.1)
        return process

    def test_a_running_run_goes_forward(self):
        self.started(ranks=2)
        before = self.status()
        self.assertEqual(before["state"], "running")
        self.assertEqual((before["ranks"], before["hosts"], before["restarts"]),
                         (2, [socket.gethostname()], 0))
        self.assertEqual((before["steps"], before["epochs"]), (2000 * 63, 2000))
        self.assertGreater(before["samples_per_second"], 0)
        self.assertGreater(before["loss"], 0)
        end = time.monotonic() + 60
        while self.status()["step"] == before["step"]:
            self.assertLess(time.monotonic(), end, "it does not go forward")
        self.assertGreater(self.status()["step"], before["step"])
        said = run(["status", self.folder / "run"]).stdout
        for line in (r"state +running\n", r"step +\d+ of 126000, epoch \d+ of 2000\n",
                     r"loss +\d\.\d{4}\n", r"speed +\d+ samples/s, left [\d:]+\n",
                     r"ranks +2 on \S+\n", r"checkpoint +step-\d+\n", r"restarts +0\n"):
            self.assertRegex(said, line)

    def test_killed_then_stopped_then_finished(self):
        process = self.started()
        kill_tree(process)
        process.wait()
        self.assertEqual(self.word(code=3), "dead")
        process = self.started(restarts=1)
        self.assertEqual(self.word(), "running")
        os.kill(process.pid, signal.SIGUSR1)
        said, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0)
        step = self.status()["step"]
        self.assertIn(f"stopped after step {step};", said)
        self.assertEqual(self.word(), "stopped")
        self.train(self.job(limit=4000, epochs=2000), 2, [f"train.max_steps={step + 3}"])
        done = self.status()
        self.assertEqual((done["state"], done["step"], done["steps"], done["restarts"]),
                         ("finished", step + 3, step + 3, 2))
        self.train(self.job(limit=4000, epochs=2000), 1, ["train.max_steps=2"], ["--fresh"])
        self.assertEqual((self.word(), self.status()["restarts"]), ("finished", 0))

    def test_a_failed_run_gives_its_code_and_reason(self):
        done = run(["train", self.job(), "--set", "optimizer.adam.learning_rate=1e30"])
        self.assertEqual(done.returncode, 4, done.stdout + done.stderr)
        status = self.status(code=4)
        self.assertEqual((status["state"], status["exit_code"]), ("failed", 4))
        self.assertTrue(status["error"])
        self.assertIn(status["error"], done.stderr)
        self.assertIn("failed: " + status["error"],
                      run(["status", self.folder / "run"]).stdout)

    def test_no_run_and_a_damaged_one(self):
        said = run(["status", self.folder / "none"])
        self.assertEqual(said.returncode, 2)
        self.assertIn("holds no run", said.stderr)
        (self.folder / "run").mkdir()
        for text in ("", "{}", '{"state": 3}', "[]"):
            (self.folder / "run/status.json").write_text(text)
            said = run(["status", self.folder / "run"])
            self.assertEqual(said.returncode, 2, text)
            self.assertIn("status.json: is no status of a run", said.stderr)


if __name__ == "__main__":
    unittest.main()
