"""What the tests of `peal launch --elastic` share."""
import os
import pathlib
import re
import signal
import struct
import subprocess
import threading
import time

from peal_cli import MPI_ENVIRONMENT, PealTest, kill_tree

SHM = pathlib.Path("/dev/shm")


class Launched:
    """A supervisor that runs, and what it says."""

    def __init__(self, words):
        self.process = subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True,
                                        start_new_session=True,
                                        env={**MPI_ENVIRONMENT, **os.environ})
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def text(self):
        return "".join(self.lines)

    def count(self, words):
        return sum(words in line for line in self.lines)

    def end(self, seconds=60):
        """Waits for it; returns its exit code."""
        code = self.process.wait(timeout=seconds)
        self.reader.join(timeout=10)
        self.process.stdout.close()
        return code

    def stop(self):
        if self.process.poll() is None:
            kill_tree(self.process)
            self.process.wait()


def ranks_of(job, command="train"):
    """Processes of this machine that train a job, those of the test bed's hosts too."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if command.encode() in words[:2] and str(job).encode() in words and b"peal" in words[0]:
            found.append(int(entry.name))
    return sorted(found)


def kill(pids, number=signal.SIGKILL):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def children_of(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_stopped(pid):
    """By SIGSTOP; or it has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "TZ"
    except OSError:
        return True


def states():
    return {path.name for path in SHM.glob("peal-state-*")}


class MemoryFile:
    """The state in memory of a run (core/state/memory_state.cpp)."""

    def __init__(self, run):
        number = (pathlib.Path(run) / ".run").read_text().strip()
        self.path = SHM / f"peal-state-{number}"

    def slots(self):
        """(step, where its tensors lie) of each whole slot, the newest first."""
        data = self.path.read_bytes()
        _, index_bytes, _, slot_bytes = struct.unpack_from("<4Q", data, 0)
        begin = 4096 + (index_bytes + 4095) // 4096 * 4096
        found = []
        for k in range(2):
            step, _, _, check = struct.unpack_from("<2q2Q", data, 56 + 32 * k)
            if check:
                found.append((step, begin + k * slot_bytes))
        return sorted(found, reverse=True)

    def flip(self, slot):
        data = bytearray(self.path.read_bytes())
        data[self.slots()[slot][1] + 100] ^= 1
        self.path.write_bytes(data)


class ElasticTest(PealTest):
    def wait_for(self, condition, seconds=60, what="", launched=None):
        end = time.monotonic() + seconds
        while not (found := condition()):
            said = launched.text() if launched else ""
            self.assertLess(time.monotonic(), end, f"waited in vain {what}\n{said}")
            time.sleep(0.02)
        return found

    def recoveries(self, launched):
        """(seconds from noticed to the first new step, steps done again) of each."""
        found = re.findall(r"training again ([\d.]+) s after it was noticed.*?, (\d+) steps? done "
                           r"again", launched.text())
        return [(float(seconds), int(steps)) for seconds, steps in found]

    def check_end(self, job, run, step, **overrides):
        """The run of so many steps has the weights of one that was never disturbed."""
        straight = self.folder / "straight"
        self.train(job, 0, [f"train.max_steps={step}", f"run.directory={straight}"], ["--fresh"],
                   timeout=300, **overrides)
        self.assertEqual(self.hash(run), self.hash(straight))
