"""What the tests of the `peal` program share: jobs, ranks, temporary folders.

Environment, set by CTest: PEAL_BINARY, PEAL_SOURCE, PEAL_TEST_DATA. By hand the ordinary build and
the folder of this checkout are meant: python3 tests/cli/stop_test.py -v.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ.get("PEAL_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
PEAL = os.environ.get("PEAL_BINARY", str(SOURCE / "build/peal"))
DATA = pathlib.Path(os.environ.get("PEAL_TEST_DATA", SOURCE / "../shared/data"))

os.environ.setdefault("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
os.environ.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
os.environ["PEAL_TUNE"] = ""  # the tests do not depend on what somebody has tuned
if os.geteuid() == 0:
    os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = "1"
    os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"

# Open MPI unloads its plugins before the leak check of a sanitizer build looks at what they kept;
# leaks are looked for in the runs without MPI.
MPI_ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}

# What oneDNN multiplies bf16 with; a job that asks for it elsewhere is refused.
CPU_HAS_BF16 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(
    pathlib.Path("/proc/cpuinfo").read_text().split())

SMALL_JOB = """
data {{
  train {{ idx {{ images: "{data}/mnist/t10k-images-idx3-ubyte.gz"
                labels: "{data}/mnist/t10k-labels-idx1-ubyte.gz" }} limit: {limit} }}
  preprocess {{ scale {{}} }}
}}
model {{ cnn {{ filters: 8 hidden: 32 }} }}
optimizer {{ adam {{ learning_rate: 0.002 }} }}
train {{ epochs: {epochs} global_batch: 64 seed: 3 }}
parallel {{ virtual_ranks: 8 }}
run {{ directory: "{run}" log_every_steps: 5 }}
"""


def command(arguments, ranks=0):
    """ranks 0: alone, without MPI."""
    launcher = ["mpirun", "-np", str(ranks)] if ranks else []
    return launcher + [PEAL] + [str(a) for a in arguments]


def environment(arguments, ranks):
    return MPI_ENVIRONMENT if ranks or arguments[0] == "launch" else None


def run(arguments, ranks=0, timeout=120, **options):
    """Runs to the end; stdout and stderr are captured apart."""
    return run_words(command(arguments, ranks), timeout, env=environment(arguments, ranks), **options)


def run_words(words, timeout, **options):
    """As subprocess.run, but one that takes too long fails with where its processes are."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            where = whereabouts(tree(process.pid))
            kill_tree(process)
            output, errors = process.communicate()
            raise AssertionError(f"not done after {timeout} s: {words}\n{output}{errors}\n"
                                 f"{where}") from None
        except BaseException:
            kill_tree(process)
            raise
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def whereabouts(pids):
    """What the threads of these processes do; if there is a debugger, where in our code."""
    said = [subprocess.run(["ps", "-L", "-o", "pid,lwp,stat,wchan:24,args", "-p",
                            ",".join(map(str, pids))], capture_output=True, text=True).stdout]
    for pid in pids if shutil.which("gdb") else []:
        stacks = subprocess.run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 24"],
                                capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
        ours = [line[:150] for line in stacks.splitlines()
                if line.startswith("Thread") or line.startswith("#") and "peal::" in line]
        if any("peal::" in line for line in ours):
            said += [f"process {pid}:", *ours]
    return "\n".join(said)


# A rank keeps its exit code and ends when all have: mpirun, which kills the others when the first
# has failed, finds nobody, and is told not to wait for what it kills.
FAILING_RANK = """
"$@"; code=$?; echo $code > "$CODES/.$OMPI_COMM_WORLD_RANK"
mv "$CODES/.$OMPI_COMM_WORLD_RANK" "$CODES/$OMPI_COMM_WORLD_RANK"
all_ended() { set -- "$CODES"/*; [ $# -eq $OMPI_COMM_WORLD_SIZE ]; }
until all_ended || ! kill -0 $PPID; do sleep 0.02; done
exit $code
"""


def run_failing(arguments, ranks, timeout=60, settings=None):
    """Runs what is to fail to its end; also returns the exit code of each rank (ranks 0: alone).
    `settings`: variables of the environment, for each rank."""
    if not ranks:
        return run(arguments, timeout=timeout), []
    with tempfile.TemporaryDirectory(prefix="peal-codes-") as codes:
        words = ["mpirun", "--mca", "odls_base_sigkill_timeout", "0"]
        for rank in range(ranks):
            own = settings[rank] if settings else {}
            words += [*([":"] if rank else []), "-np", "1", "env", *(f"{k}={v}" for k, v in own.items()),
                      "sh", "-c", FAILING_RANK, "rank", PEAL, *map(str, arguments)]
        result = run_words(words, timeout, env={**MPI_ENVIRONMENT, "CODES": codes})
        found = [pathlib.Path(codes, str(rank)) for rank in range(ranks)]
        return result, [int(code.read_text()) if code.exists() else None for code in found]


def start(arguments, ranks=0, **options):
    """Starts in a process group of its own, so that a test can signal or kill it whole."""
    return subprocess.Popen(command(arguments, ranks), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True,
                            env=environment(arguments, ranks), **options)


def tree(root):
    """A process and all below it: the ranks of mpirun sit in process groups of their own."""
    pids = [root]
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                pids += [int(child) for child in task.read_text().split()]
            except OSError:
                pass
    return pids


def kill_tree(process, number=signal.SIGKILL, when=lambda: None):
    """Signals mpirun and every rank below it as soon as `when` returns."""
    pids = tree(process.pid)
    when()
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    return pids


class PealTest(unittest.TestCase):
    """A temporary folder for each test, and a data folder that must be there."""

    def setUp(self):
        self.assertTrue((DATA / "README.md").exists(),
                        f"the real data sets are not at {DATA}; set PEAL_TEST_DATA")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="peal-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def job(self, name="job", run_name="run", limit=600, epochs=2, extra=""):
        path = self.folder / f"{name}.textproto"
        path.write_text(SMALL_JOB.format(data=DATA, limit=limit, epochs=epochs,
                                         run=self.folder / run_name) + extra)
        return path

    def train(self, job, ranks=0, overrides=(), flags=(), **options):
        """Trains and expects success; returns what it printed."""
        arguments = ["train", job, *flags]
        for override in overrides:
            arguments += ["--set", override]
        result = run(arguments, ranks, **options)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout

    def hash(self, run_directory):
        result = run(["inspect", "--hash", run_directory])
        self.assertEqual(result.returncode, 0, result.stderr)
        line = result.stdout.strip()
        self.assertRegex(line, "^[0-9a-f]{16}$")
        return line

    def metrics(self, run_directory):
        lines = (pathlib.Path(run_directory) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
