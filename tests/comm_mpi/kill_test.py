"""One of three MPI ranks is killed with SIGKILL: the job must fail, and no rank may be left."""

import os
import re
import subprocess
import sys
import time

LIMIT_S = 10  # the others' deadline is 60 s


def running(process):
    """Zombies have ended: only their parent has not looked yet."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def main():
    program, memory = sys.argv[1:]
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0",
                       OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    command = ["mpirun", "--oversubscribe", "--mca", "btl_vader_single_copy_mechanism", "none"]
    start = time.monotonic()
    job = subprocess.run(command + ["-np", "3", program, memory, "kill"], env=environment,
                         capture_output=True, text=True, timeout=50)
    seconds = time.monotonic() - start
    processes = [int(n) for n in re.findall(r"process (\d+)", job.stdout)]
    assert len(processes) == 3, f"3 ranks should have started:\n{job.stdout}\n{job.stderr}"
    assert job.returncode != 0, "mpirun says that the job went well"
    assert "Killed" in job.stderr, job.stderr
    assert seconds < LIMIT_S, f"the job took {seconds:.1f} s to end"
    # mpirun does not wait for the ranks that it kills; a large one takes a moment to be gone.
    while time.monotonic() - start < LIMIT_S and any(map(running, processes)):
        time.sleep(0.05)
    left = [process for process in processes if running(process)]
    assert not left, f"left behind: {left}"


main()
