"""A job that is killed again and again, each time resumed on another number of ranks, ends with the
hash of the run that was never disturbed; a damaged checkpoint is named and passed over."""
import pathlib
import random
import time
import unittest

from peal_cli import PealTest, kill_tree, run, start

KILLS = 20


class Drill(PealTest):
    def setUp(self):
        super().setUp()
        # 40 epochs of 32 steps, a checkpoint every 20 steps.
        self.path = self.job(limit=2000, epochs=40, extra="checkpoint { every_steps: 20 keep: 3 }")

    def undisturbed(self):
        directory = self.folder / "undisturbed"
        before = time.monotonic()
        self.train(self.path, 2, [f"run.directory={directory}"])
        return self.hash(directory), time.monotonic() - before

    def newest_step(self, directory):
        steps = [int(p.parent.name.split("-")[1])
                 for p in directory.glob("checkpoints/step-*/manifest.pb")]
        return max(steps, default=0)

    def kill_inside_a_checkpoint(self, directory, process, last_step):
        """Lets the run come further than last_step and strikes while it writes a checkpoint."""
        while self.newest_step(directory) <= last_step and process.poll() is None:
            time.sleep(0.001)

        def wait_for_a_checkpoint():
            before = set(directory.glob("checkpoints/.tmp-*"))
            while not set(directory.glob("checkpoints/.tmp-*")) - before and process.poll() is None:
                pass

        kill_tree(process, when=wait_for_a_checkpoint)

    def test_twenty_kills(self):
        expected, duration = self.undisturbed()
        directory = self.folder / "drill"
        moments = random.Random(2026)
        kills = inside_a_checkpoint = 0
        finished, seen = False, set()
        while kills < KILLS:
            ranks = moments.choice([1, 2, 3, 4])
            arguments = ["train", self.path, "--set", f"run.directory={directory}"]
            if finished:  # the run got to its end between kills: start it over, keep counting
                arguments.append("--fresh")
            last_step = 0 if finished else self.newest_step(directory)
            process = start(arguments, ranks)
            kill_at = time.monotonic() + moments.uniform(0.4, 0.6 + duration / 4)
            while time.monotonic() < kill_at and process.poll() is None:
                time.sleep(0.001)
            finished = process.poll() is not None
            if finished:
                self.assertEqual(process.returncode, 0, process.stdout.read())
                process.stdout.close()
                continue
            if kills % 2 == 1:
                self.kill_inside_a_checkpoint(directory, process, last_step)
            else:
                kill_tree(process)
            finished = process.wait() == 0
            process.stdout.close()
            if finished:
                continue
            kills += 1
            unfinished = {(p.name, p.stat().st_ctime_ns)
                          for p in (directory / "checkpoints").glob(".tmp-*")}
            inside_a_checkpoint += bool(unfinished - seen)
            seen |= unfinished
        print(f"{KILLS} kills, {inside_a_checkpoint} inside a checkpoint, "
              f"newest step {self.newest_step(directory)}")
        self.assertGreater(inside_a_checkpoint, 0)
        self.assertGreater(self.newest_step(directory), 0)
        self.train(self.path, 3, [f"run.directory={directory}"])
        self.assertEqual(self.hash(directory), expected)

    def test_damage_is_named_and_passed_over(self):
        directory = self.folder / "damage"
        job = self.job(limit=600, epochs=2, extra="checkpoint { every_steps: 5 keep: 4 }")
        self.train(job, 2, [f"run.directory={directory}"])
        expected = self.hash(directory)
        newest = directory / "checkpoints" / f"step-{self.newest_step(directory):09d}"
        choose = random.Random(7)
        for file in sorted(newest.iterdir()):
            whole = file.read_bytes()
            for damage in ("flip", "truncate"):
                with self.subTest(file=file.name, damage=damage):
                    at = choose.randrange(len(whole))
                    bad = bytearray(whole)
                    if damage == "flip":
                        bad[at] ^= 1 << choose.randrange(8)
                    else:
                        del bad[at:]
                    file.write_bytes(bad)
                    inspected = run(["inspect", newest])
                    self.assertEqual(inspected.returncode, 2)
                    self.assertIn(file.name, inspected.stderr)
                    copy = self.folder / f"copy-{file.name}-{damage}"
                    run_copy(directory, copy)
                    result = run(["train", job, "--set", f"run.directory={copy}"], 2)
                    self.assertEqual(result.returncode, 0, result.stderr)
                    self.assertIn(file.name, result.stderr)  # the warning names it
                    self.assertIn("going on after step 15", result.stdout)
                    self.assertEqual(self.hash(copy), expected)
            file.write_bytes(whole)


def run_copy(source: pathlib.Path, target: pathlib.Path):
    import shutil
    shutil.copytree(source, target, symlinks=True)


if __name__ == "__main__":
    unittest.main()
