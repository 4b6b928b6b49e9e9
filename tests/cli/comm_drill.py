"""Drills of the communicator: while all ranks make calls of one kind, one rank is stopped, killed,
cut off, leaves, or makes another call than its peers. Every living rank must end in time with the
right exit code and one line that names the culprit and nobody else, and `peal inspect flight` must
name the same. What the tests comm_drill*_test.py share: one round, and a table of rounds.

A round is CARRIER/CALL/FAULT/RANK/SEED. Carriers are shared memory (`shared`), messages inside a host
(`mpi`), and two hosts of a test bed, on which mpirun (`hosts`) or a real Slurm (`srun`) starts two
ranks each, or one (`hosts-alone`, `srun-alone`); `shared+c-single` is the first in a host program of
its own (tests/comm_mpi/drill_rank.cpp).
"""
import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from peal_cli import MPI_ENVIRONMENT, PEAL, SOURCE

DRILL_RANK = pathlib.Path(PEAL).parent / "drill_rank"
DEADLINE = 1.5     # seconds, of every call, where ranks wait for one that does not come
NO_DEADLINE = 30   # where the fault is known at once, or is none
SLACK = 1.5        # 0.5 for peers that take no word of it; the rest for a busy machine
ROUND_LIMIT = 120  # seconds from start to end
SIDE_BY_SIDE = 6 * os.cpu_count()  # rounds; they mostly sleep
BEDS = 4

KINDS = ["all_reduce", "all_reduce_group", "all_reduce_tree", "reduce", "all_gather",
         "reduce_scatter", "gather", "scatter", "all_to_all", "ragged", "broadcast", "send_recv",
         "barrier", "split", "make_group", "group", "reduce_scatter_tree"]
DISAGREEMENTS = {
    "all_reduce": "count dtype op name order", "all_reduce_group": "count dtype op name order",
    "all_reduce_tree": "count name order", "reduce": "count dtype op name root order",
    "all_gather": "count dtype name order", "reduce_scatter": "count dtype op name order",
    "gather": "count dtype name root order", "scatter": "count dtype name root order",
    "all_to_all": "count dtype name order", "ragged": "count dtype name order",
    "broadcast": "count dtype name root order", "send_recv": "count dtype name order",
    "barrier": "name order", "split": "order", "make_group": "name order",
    "group": "count dtype op name order", "reduce_scatter_tree": "count name order"}
STILL = ["stop", "kill", "leave", "idle"]     # the others wait for the culprit
RANKS = {"shared": 3, "mpi": 3, "hosts": 4, "srun": 4, "hosts-alone": 2, "srun-alone": 2}
ON_BEDS = ("hosts", "srun", "hosts-alone", "srun-alone")
HOST_PROGRAMS = ["single", "c-funneled", "multiple", "c-single", "funneled", "c-multiple",
                 "serialized", "c-serialized"]

# Connections of MPI hold little, as slow links do: when one breaks, a message is under way.
SMALL_SOCKETS = {"OMPI_MCA_btl_tcp_sndbuf": "65536", "OMPI_MCA_btl_tcp_rcvbuf": "65536"}

# Each rank below a shell that keeps its exit code and waits for the end of the round, so that
# mpirun, which ends a job when its first rank ends, does not come first. Slurm does a second later,
# so there it is left to do what it does.
SHELL = ('"$@"; code=$?; echo $code > $FOLDER/code-$OMPI_COMM_WORLD_RANK; '
         'while [ ! -e $FOLDER/end ]; do sleep 0.05; done')
SRUN_SHELL = '"$@"; code=$?; echo $code > $FOLDER/code-$SLURM_PROCID; exit $code'


class Wrong(Exception):
    pass


def demand(condition, *what):
    if not condition:
        raise Wrong(" ".join(map(str, what)))


@dataclasses.dataclass(frozen=True)
class Result:
    """What a rank left."""
    code: int
    line: str
    when: float          # it was written
    without_core: float  # seconds, of those since the calls began, in which it could not run


@dataclasses.dataclass(frozen=True)
class Round:
    carrier: str
    kind: str
    fault: str
    rank: int
    seed: int

    def __str__(self):
        return f"{self.carrier}/{self.kind}/{self.fault}/{self.rank}/{self.seed}"

    @property
    def base(self):
        return self.carrier.split("+")[0]

    @property
    def alone(self):
        """Each rank has a host of its own."""
        return self.base.endswith("-alone")

    @property
    def slots(self):
        """Ranks of a host of a bed."""
        return 1 if self.alone else 2

    @property
    def by_slurm(self):
        return self.base.startswith("srun")

    @property
    def program(self):
        """Who calls MPI_Init."""
        return (self.carrier.split("+") + ["peal"])[1]

    @property
    def ranks(self):
        return RANKS[self.base]

    @property
    def waits(self):
        """The others wait for somebody, until the deadline. The end of a process that is alone on its
        host shows in its connections."""
        return self.fault in (*STILL, "link") and not (self.alone and self.fault == "kill")

    @property
    def deadline(self):
        return DEADLINE if self.waits else NO_DEADLINE

    def started_as(self, rank):
        """The number that its launcher has for a rank; host programs count backwards."""
        return rank if self.program == "peal" else self.ranks - 1 - rank

    @property
    def partner(self):
        return (self.rank + 1) % self.ranks

    def mpi_settings(self):
        """Every second round over MPI is one over TCP; MPI would use shared memory inside a host."""
        if self.base in ON_BEDS:
            return SMALL_SOCKETS
        over_tcp = self.base == "mpi" and self.seed % 2 == 1
        return {"OMPI_MCA_btl": "tcp,self", **SMALL_SOCKETS} if over_tcp else {}

    def host_of(self, rank):
        return self.started_as(rank) // self.slots + 1

    def culprits(self, of_rank):
        """Whom a rank may name, and must name one of."""
        if self.fault == "link":
            return {r for r in range(self.ranks) if self.host_of(r) != self.host_of(of_rank)}
        return {self.rank}


class Bed:
    """A test bed of two hosts, for one round at a time."""

    def __init__(self, folder, slurm):
        self.state = folder / "bed"
        self.run("up", 2, "--share", folder, *(["--slurm"] if slurm else []))

    def command(self, *words):
        kept = ",".join(["PEAL_TESTBED", "FOLDER", *SMALL_SOCKETS])
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n", f"--preserve-env={kept}"]
        return [*sudo, str(SOURCE / "cluster/testbed.sh"), *map(str, words)]

    def run(self, *words):
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60,
                              env=self.environment())
        demand(done.returncode == 0, "testbed.sh", *words,
               "(needs root, and the packages of cluster/install_deps.sh --tests):",
               done.stderr)

    def environment(self):
        return {**os.environ, "PEAL_TESTBED": str(self.state)}


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def text_of(path):
    try:
        return path.read_text()
    except OSError:
        return None


def named(line):
    """The ranks that a line of a deadline or a loss blames."""
    waited = re.search(r': waited [\d.]+ s in \w+ "[^"]*"; (.*)$', line)
    if waited:
        return {int(r) for r in re.findall(r"rank (\d+)", waited[1])}
    lost = re.search(r"(rank (\d+) \([^)]*\)) (?:has left|is gone), waited for in .*?\"(?:; (.*))?$",
                     line)
    demand(lost, "no line of a deadline or a loss:", line)
    return {int(lost[2])} | {int(r) for r in re.findall(r"rank (\d+)", lost[3] or "")}


class Drill:
    """One round."""

    def __init__(self, what, folder, bed=None):
        self.what = what
        self.folder = folder
        self.bed = bed
        self.latest = 0  # seconds from the fault to the end of the last of the living
        words = [DRILL_RANK, "mpi" if what.base == "mpi" else "shared", what.program, what.kind,
                 what.fault, what.rank, what.seed, what.deadline, folder]
        shell = SRUN_SHELL if what.by_slurm else SHELL
        ranks = ["sh", "-c", shell, "rank", *map(str, words)]
        if what.by_slurm:
            self.command = bed.command("srun", "--mpi=pmix", "--nodes", 2, "--ntasks-per-node",
                                       what.slots, *ranks)
        elif bed:
            passed_on = [word for name in ("FOLDER", *SMALL_SOCKETS) for word in ("-x", name)]
            self.command = bed.command("mpirun", what.slots, *passed_on, *ranks)
        else:
            self.command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(what.ranks),
                            *ranks]

    def environment(self):
        base = self.bed.environment() if self.bed else MPI_ENVIRONMENT
        return {**base, **self.what.mpi_settings(), "FOLDER": str(self.folder)}

    def run(self):
        self.output = open(self.folder / "output", "w")
        self.process = subprocess.Popen(self.command, stdout=self.output, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL, start_new_session=True,
                                        env=self.environment())
        self.end = time.monotonic() + ROUND_LIMIT
        try:
            self.watch()
        finally:
            self.stop()

    def wait_for(self, what, condition):
        while True:
            ended = self.process.poll() is not None
            if condition():
                return
            demand(time.monotonic() < self.end, "waited in vain for", what)
            demand(not ended, "the launcher ended before", what)
            time.sleep(0.02)

    def code_file(self, rank):
        return self.folder / f"code-{self.what.started_as(rank)}"

    def result(self, rank):
        """What a rank that has ended left; None: it has not."""
        code, said = text_of(self.code_file(rank)), text_of(self.folder / f"rank-{rank}")
        stays = self.what.fault == "leave" and rank == self.what.rank  # in MPI_Finalize
        # Slurm, which waits for a second, may come before a rank that has said why has ended.
        killed = self.what.by_slurm and self.process.poll() is not None and not code
        if stays or killed:
            code = said and said.split("\n")[0]
        if not code or not code.strip():
            return None
        demand(said, "rank", rank, "ended with", code.strip(), "and left no word")
        own_code, line, without_core = said.strip().split("\n")
        demand(code.strip() == own_code, "rank", rank, "ended with", code.strip(), "but says", said)
        return Result(int(code), line, (self.folder / f"rank-{rank}").stat().st_mtime,
                      float(without_core))

    def watch(self):
        what = self.what
        if what.fault == "link":
            self.wait_for("start", (self.folder / "started").exists)
            time.sleep(random.Random(what.seed).uniform(0, 0.05))
            # A busy machine takes a while to come to it: the file tells when the cable was cut.
            self.bed.run("exec", "h2", "sh", "-c", 'ip link set eth0 down && touch "$1"', "cut",
                         self.folder / "cut")
        if what.fault == "pause":
            self.wait_for("pause", (self.folder / "fault").exists)
            time.sleep(0.5)
            self.signal(what.rank, signal.SIGCONT)
        silent = {what.rank} if what.fault in ("stop", "kill", "idle") else set()
        living = set(range(what.ranks)) - silent
        self.wait_for(f"the end of ranks {living}", lambda: all(self.result(r) for r in living))
        self.check(living)
        self.inspect()
        if what.by_slurm and not what.fault == "link":
            self.await_slurm()
        elif what.fault == "stop":
            self.signal(what.rank, signal.SIGCONT)
            self.wait_for("the end of the rank that was stopped", lambda: self.result(what.rank))
            self.check({what.rank})
        elif what.fault == "kill":
            self.wait_for("the end of the killed", self.code_file(what.rank).exists)

    def await_slurm(self):
        """Slurm ends a step whose rank has ended without MPI_Finalize: none stays behind, stopped or
        not. Where all have said why, theirs is the exit code of srun."""
        self.process.wait(max(0, self.end - time.monotonic()))
        if self.what.fault in ("pause", "throw", *DISAGREEMENTS[self.what.kind].split()):
            due = self.result(0).code
            demand(self.process.returncode == due, "srun ended with", self.process.returncode, "not",
                   due)

    def signal(self, rank, number):
        pid = int((self.folder / f"pid-{rank}").read_text())
        if self.bed:
            self.bed.run("exec", f"h{self.what.host_of(rank)}", "kill", f"-{number}", pid)
        else:
            os.kill(pid, number)

    def check(self, ranks):
        what = self.what
        results = {rank: self.result(rank) for rank in sorted(ranks)}
        without_core = sum(result.without_core for result in results.values())
        for rank, result in results.items():
            code, line = result.code, result.line
            where = f"rank {rank} ended with {code}: {line}\n "
            if what.fault == "pause":
                demand(code == 0, where, "0 was due")
                continue
            if what.fault == "leave" and rank == what.rank:
                demand(code == 0 and line == "left", where, "it left")
                continue
            struck = (self.folder / ("cut" if what.fault == "link" else "fault")).stat().st_mtime
            if rank != what.rank:
                late = result.when - struck
                self.latest = max(self.latest, late)
                # Where nobody is waited for nobody needs the deadline's time, but perhaps that of a
                # machine without a free core.
                due = DEADLINE + SLACK
                if not what.waits:
                    due = min(due, SLACK + without_core)
                demand(late < due, where, f"{late:.2f} s after the fault; {due:.2f} s are allowed")
            if what.fault == "throw":
                demand(code == 2, where, "2 was due")
                demand(line.endswith("shard 3: record 7 is cut short"), where, "not the first cause")
            elif what.fault in (*STILL, "link"):
                demand(code == 3, where, "3 was due")
                culprits = what.culprits(rank)
                demand(named(line) and named(line) <= culprits, where, "culprits:", culprits)
            else:
                demand(code == 4, where, "4 was due")
                demand("ranks out of step: call " in line and f"rank {what.rank} (" in line, where)

    def inspect(self):
        what = self.what
        if what.fault == "pause":
            return
        if what.fault == "throw":  # wrong input is no flight's matter
            demand(not list((self.folder / "flight").glob("*.jsonl")), "a flight record")
            return
        # Of two ranks both are in the group, whose rank 0 is the culprit, and nobody waits outside.
        records, culprit = "flight", what.rank
        if what.alone and what.kind == "group":
            records, culprit = "group", 0
        done = subprocess.run([PEAL, "inspect", "flight", self.folder / records, "--json"],
                              capture_output=True, text=True, timeout=30)
        demand(done.returncode == 0, "inspect:", done.stdout, done.stderr)
        verdict = json.loads(done.stdout)
        said = f"{verdict['verdict']}: {verdict['sentence']}\n " + "\n ".join(verdict["details"])
        late = set(verdict["late"]) | set(verdict["missing"])
        if what.fault in STILL:
            demand(verdict["verdict"] == "late", said)
            demand(late == {culprit}, said)
        elif what.fault == "link":
            # Each side waits for the other: in one call, or in several.
            demand(verdict["verdict"] in ("stuck", "late", "crossed"), said)
        elif (what.kind, what.fault) == ("ragged", "count") or what.kind == "group":
            # Records have no counts of a ragged call, and not the calls of a group.
            demand(verdict["verdict"] == "ended", said)
            demand(f"rank {what.rank} (" in verdict["causes"][0], said)
        else:
            demand(verdict["verdict"] == "mismatch", said)
            demand(what.rank in late, said)

    def stop(self):
        (self.folder / "end").touch()
        if self.what.fault == "link":
            self.bed.run("link", "h2", "up")
        try:
            if self.what.fault in ("pause",) + tuple(DISAGREEMENTS[self.what.kind].split()):
                self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        for path in self.folder.glob("pid-*"):
            rank = int(path.name[4:])
            try:
                self.signal(rank, signal.SIGKILL)
            except (OSError, Wrong):
                pass  # has ended
        try:
            if self.what.by_slurm and self.process.poll() is None:
                self.bed.run("scancel", "--user", "root")
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.output.close()


class Table:
    """Runs rounds side by side and prints how they went."""

    def __init__(self, rounds, keep):
        self.rounds = rounds
        self.keep = keep
        self.failed = []
        self.latest = 0
        self.lock = threading.Lock()
        self.done = 0

    def run(self, folder):
        beds = [self.bed(folder, k) for k in range(BEDS)] if self.on(*ON_BEDS) else []
        self.free_beds = list(beds)
        try:
            with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as here, \
                    concurrent.futures.ThreadPoolExecutor(max(len(beds), 1)) as on_beds:
                pending = [(on_beds if one.base in ON_BEDS else here).submit(
                    self.one, one, folder) for one in self.rounds]
                try:
                    for future in pending:
                        future.result()
                except BaseException:  # told to end: rounds under way clean up behind themselves
                    for future in pending:
                        future.cancel()
                    raise
        finally:
            for bed in beds:
                bed.run("down")

    def on(self, *bases):
        return any(one.base in bases for one in self.rounds)

    def bed(self, folder, k):
        place = folder / f"hosts-{k}"
        place.mkdir()
        return Bed(place, slurm=self.on("srun", "srun-alone"))

    def one(self, what, folder):
        with self.lock:
            bed = self.free_beds.pop() if what.base in ON_BEDS else None
        parent = bed.state.parent if bed else folder
        place = pathlib.Path(tempfile.mkdtemp(prefix="round-", dir=parent))
        drill = Drill(what, place, bed)
        begin = time.monotonic()
        try:
            drill.run()
            problem = None
        except Exception as error:  # noqa: BLE001: any of them fails the round
            problem = f"{type(error).__name__}: {error}"
        with self.lock:
            if bed:
                self.free_beds.append(bed)
            self.done += 1
            print(f"{self.done:4}/{len(self.rounds)} {'ok  ' if not problem else 'FAIL'} "
                  f"{time.monotonic() - begin:5.1f} s  {what}  {drill.latest:.2f}", flush=True)
            self.latest = max(self.latest, drill.latest)
            if problem:
                self.failed.append((what, problem))
                self.explain(drill, problem)
        if not self.keep:
            shutil.rmtree(place, ignore_errors=True)

    def explain(self, drill, problem):
        print(f"  {problem}")
        print(f"  alone: python3 {sys.argv[0]} {drill.what} --keep")
        settings = {**drill.what.mpi_settings(), "FOLDER": drill.folder}
        print("  " + shlex.join(["env", *(f"{name}={value}" for name, value in settings.items()),
                                 *map(str, drill.command)]))
        for path in sorted(drill.folder.glob("rank-*")):
            print(f"  {path.name}: {' '.join(path.read_text().split(chr(10)))}")
        for line in (text_of(drill.folder / "output") or "").splitlines()[-15:]:
            print(f"  | {line}")
        sys.stdout.flush()

    def print(self):
        faults = sorted({one.fault for one in self.rounds})
        print(f"\nrounds, by call and fault\n{'':18}" + "".join(f"{f:>7}" for f in faults))
        for kind in [kind for kind in KINDS if any(one.kind == kind for one in self.rounds)]:
            row = [sum(one.kind == kind and one.fault == f for one in self.rounds) for f in faults]
            print(f"{kind:18}" + "".join(f"{n or '-':>7}" for n in row))
        for carrier in sorted({one.carrier for one in self.rounds}):
            print(f"{carrier}: {sum(one.carrier == carrier for one in self.rounds)} rounds")


def main(description, every_round, rounds_of_the_suite):
    """The command line of a test: both functions make a list of rounds from a seed."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="*", help="rounds to run")
    parser.add_argument("--all", action="store_true", help="the whole table")
    parser.add_argument("--only", help="a regular expression: of the table, only these")
    parser.add_argument("--seed", type=int, default=20, help="what rounds are drawn from")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the rounds")
    parser.add_argument("-v", action="store_true", help="as all tests here: ignored")
    arguments = parser.parse_args()
    if arguments.rounds:
        rounds = []
        for text in arguments.rounds:
            carrier, kind, fault, rank, seed = text.split("/")
            rounds.append(Round(carrier, kind, fault, int(rank), int(seed)))
    elif arguments.all:
        rounds = list(every_round(arguments.seed))
    else:
        rounds = list(rounds_of_the_suite(arguments.seed))
    if arguments.only:
        rounds = [one for one in rounds if re.search(arguments.only, str(one))]
    demand(rounds, "no rounds")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    table = Table(rounds, arguments.keep)
    begin = time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="peal-drill-"))
    try:
        table.run(folder)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    table.print()
    print(f"the last rank ended {table.latest:.2f} s after the fault; deadline {DEADLINE} s")
    print(f"{len(rounds)} rounds in {time.monotonic() - begin:.0f} s, {len(table.failed)} failed")
    for what, problem in table.failed:
        print(f"failed: {what}: {problem}")
    return 1 if table.failed else 0
