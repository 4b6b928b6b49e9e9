"""Drills of the communicator: while all ranks make calls of one kind, one rank is stopped, killed,
cut off, leaves, or makes another call than its peers. Every living rank must end in time with the
right exit code and one line that names the culprit and nobody else, and `peal inspect flight` must
name the same. Over shared memory, over messages, and over the two hosts of a test bed.

  comm_drill_test.py                 the rounds of the suite, drawn from a fixed seed
  comm_drill_test.py --all           every kind of call x every fault x every carrier
  comm_drill_test.py mpi/gather/stop/1/7 [--keep]    one round: carrier, call, fault, rank, seed
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
DEADLINE = 1.5     # seconds, of every call
SLACK = 1.5        # 0.5 for peers that take no word of it; the rest for a busy machine
ROUND_LIMIT = 60   # seconds from start to end
SIDE_BY_SIDE = 4   # rounds; they mostly sleep

KINDS = ["all_reduce", "all_reduce_group", "all_reduce_tree", "reduce", "all_gather",
         "reduce_scatter", "gather", "scatter", "all_to_all", "ragged", "broadcast", "send_recv",
         "barrier", "split", "make_group", "group"]
DISAGREEMENTS = {
    "all_reduce": "count dtype op name order", "all_reduce_group": "count dtype op name order",
    "all_reduce_tree": "count name order", "reduce": "count dtype op name root order",
    "all_gather": "count dtype name order", "reduce_scatter": "count dtype op name order",
    "gather": "count dtype name root order", "scatter": "count dtype name root order",
    "all_to_all": "count dtype name order", "ragged": "count dtype name order",
    "broadcast": "count dtype name root order", "send_recv": "count dtype name order",
    "barrier": "name order", "split": "order", "make_group": "name order",
    "group": "count dtype op name order"}
STILL = ["stop", "kill", "leave", "idle"]     # the others wait for the culprit
RANKS = {"shared": 3, "mpi": 3, "hosts": 4}
SLOTS = 2                                     # ranks of a host

# Connections of MPI hold little, as slow links do: when one breaks, a message is under way.
SMALL_SOCKETS = ["--mca", "btl_tcp_sndbuf", "65536", "--mca", "btl_tcp_rcvbuf", "65536"]

# Each rank below a shell that keeps its exit code and waits for the end of the round, so that
# mpirun, which ends a job when its first rank ends, does not come first.
SHELL = ('"$@"; code=$?; echo $code > $FOLDER/code-$OMPI_COMM_WORLD_RANK; '
         'while [ ! -e $FOLDER/end ]; do sleep 0.05; done')


class Wrong(Exception):
    pass


def demand(condition, *what):
    if not condition:
        raise Wrong(" ".join(map(str, what)))


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
    def ranks(self):
        return RANKS[self.carrier]

    @property
    def partner(self):
        return (self.rank + 1) % self.ranks

    def mpi_options(self):
        """Every second round over MPI is one over TCP; MPI would use shared memory inside a host."""
        over_tcp = self.carrier == "mpi" and self.seed % 2 == 1
        return ["--mca", "btl", "tcp,self", *SMALL_SOCKETS] if over_tcp else []

    def cut(self):
        """Ranks that the cable joins no more: those of the second host."""
        return set(range(SLOTS, 2 * SLOTS))

    def culprits(self, of_rank):
        """Whom a rank may name, and must name one of."""
        if self.fault == "link":
            return self.cut() if of_rank not in self.cut() else set(range(SLOTS))
        return {self.rank}


class Bed:
    """A test bed of two hosts, for one round at a time."""

    def __init__(self, folder):
        self.state = folder / "bed"
        self.run("up", 2, "--share", folder)

    def command(self, *words):
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n", "--preserve-env=PEAL_TESTBED,FOLDER"]
        return [*sudo, str(SOURCE / "cluster/testbed.sh"), *map(str, words)]

    def run(self, *words):
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60,
                              env=self.environment())
        demand(done.returncode == 0, "testbed.sh", *words, "(needs root, iproute2, openssh):",
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
        words = [DRILL_RANK, "mpi" if what.carrier == "mpi" else "shared", what.kind, what.fault,
                 what.rank, what.seed, DEADLINE, folder]
        ranks = ["sh", "-c", SHELL, "rank", *map(str, words)]
        if bed:
            self.command = bed.command("mpirun", SLOTS, *SMALL_SOCKETS, "-x", "FOLDER", *ranks)
        else:
            self.command = ["mpirun", "--oversubscribe", "--bind-to", "none", *what.mpi_options(),
                            "-np", str(what.ranks), *ranks]

    def environment(self):
        base = self.bed.environment() if self.bed else MPI_ENVIRONMENT
        return {**base, "FOLDER": str(self.folder)}

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
        while not condition():
            demand(time.monotonic() < self.end, "waited in vain for", what)
            demand(self.process.poll() is None, "mpirun ended before", what)
            time.sleep(0.02)

    def result(self, rank):
        """(exit code, line, when) of a rank that has ended."""
        code, said = text_of(self.folder / f"code-{rank}"), text_of(self.folder / f"rank-{rank}")
        if self.what.fault == "leave" and rank == self.what.rank:
            code = said and said.split("\n")[0]  # stays in MPI_Finalize
        if not code or not code.strip():
            return None
        demand(said, "rank", rank, "ended with", code.strip(), "and left no word")
        demand(int(code) == int(said.split("\n")[0]), "rank", rank, "ended with", code.strip(),
               "but says", said)
        return int(code), said.split("\n", 1)[1].strip(), (self.folder / f"rank-{rank}").stat().st_mtime

    def watch(self):
        what = self.what
        self.struck = None
        if what.fault == "link":
            self.wait_for("start", (self.folder / "started").exists)
            time.sleep(random.Random(what.seed).uniform(0, 0.05))
            self.struck = time.time()
            self.bed.run("link", "h2", "down")
            (self.folder / "cut").touch()
        if what.fault == "pause":
            self.wait_for("pause", (self.folder / "fault").exists)
            time.sleep(DEADLINE / 3)
            self.signal(what.rank, signal.SIGCONT)
        silent = {what.rank} if what.fault in ("stop", "kill", "idle") else set()
        living = set(range(what.ranks)) - silent
        self.wait_for(f"the end of ranks {living}", lambda: all(self.result(r) for r in living))
        self.check(living)
        self.inspect()
        if what.fault == "stop":
            self.signal(what.rank, signal.SIGCONT)
            self.wait_for("the end of the rank that was stopped", lambda: self.result(what.rank))
            self.check({what.rank})
        elif what.fault == "kill":
            self.wait_for("the end of the killed", (self.folder / f"code-{what.rank}").exists)

    def signal(self, rank, number):
        pid = int((self.folder / f"pid-{rank}").read_text())
        if self.bed:
            self.bed.run("exec", f"h{rank // SLOTS + 1}", "kill", f"-{number}", pid)
        else:
            os.kill(pid, number)

    def check(self, ranks):
        what = self.what
        for rank in sorted(ranks):
            code, line, when = self.result(rank)
            where = f"rank {rank} ended with {code}: {line}\n "
            if what.fault == "pause":
                demand(code == 0, where, "0 was due")
                continue
            if what.fault == "leave" and rank == what.rank:
                demand(code == 0 and line == "left", where, "it left")
                continue
            struck = self.struck or (self.folder / "fault").stat().st_mtime
            if rank != what.rank:
                late = when - struck
                self.latest = max(self.latest, late)
                demand(late < DEADLINE + SLACK, where, f"{late:.2f} s after the fault")
            if what.fault == "throw":
                demand(code == 2, where, "2 was due")
                demand(line.endswith("shard 3: record 7 is cut short"), where, "not the first cause")
            elif what.fault in STILL or what.fault == "link":
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
        done = subprocess.run([PEAL, "inspect", "flight", self.folder / "flight", "--json"],
                              capture_output=True, text=True, timeout=30)
        demand(done.returncode == 0, "inspect:", done.stdout, done.stderr)
        verdict = json.loads(done.stdout)
        said = f"{verdict['verdict']}: {verdict['sentence']}\n " + "\n ".join(verdict["details"])
        late = set(verdict["late"]) | set(verdict["missing"])
        if what.fault in STILL:
            demand(verdict["verdict"] == "late", said)
            demand(late == {what.rank}, said)
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
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.output.close()
        if self.what.fault == "link":
            self.bed.run("link", "h2", "up")


def every_round(seed):
    draw = random.Random(seed)
    for carrier in RANKS:
        for kind in KINDS:
            for fault in (*STILL, "link", "pause", "throw", *DISAGREEMENTS[kind].split()):
                if (fault == "link") == (carrier == "hosts") or fault != "link":
                    # A pair that a cut shall part lies on two hosts.
                    rank = draw.randrange(RANKS[carrier])
                    yield Round(carrier, kind, fault, rank | 1 if fault == "link" else rank,
                                draw.randrange(1000))


def rounds_of_the_suite(seed):
    """Every call is stopped, killed and left over each carrier, and cut between hosts; of what else
    can go wrong with it, one disagreement and one milder fault. Over hosts, which take longest to
    start, one more round for every two calls."""
    draw = random.Random(seed)
    chosen, seen = [], {}
    for one in every_round(seed):
        if one.carrier == "hosts":
            always = one.fault == "link"
            group = ("hosts", KINDS.index(one.kind) // 2)
        else:
            always = one.fault in ("stop", "kill", "leave")
            group = (one.carrier, one.kind, one.fault in DISAGREEMENTS[one.kind].split())
        if always:
            chosen.append(one)
        else:
            seen.setdefault(group, []).append(one)
    for group, rounds in seen.items():
        chosen += draw.sample(rounds, 1)
    draw.shuffle(chosen)
    return chosen


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
        beds = [self.bed(folder, k) for k in range(2)] if self.on("hosts") else []
        self.free_beds = list(beds)
        try:
            with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as here, \
                    concurrent.futures.ThreadPoolExecutor(max(len(beds), 1)) as on_beds:
                pending = [(on_beds if one.carrier == "hosts" else here).submit(
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

    def on(self, carrier):
        return any(one.carrier == carrier for one in self.rounds)

    def bed(self, folder, k):
        place = folder / f"hosts-{k}"
        place.mkdir()
        return Bed(place)

    def one(self, what, folder):
        with self.lock:
            bed = self.free_beds.pop() if what.carrier == "hosts" else None
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
                self.failed.append(what)
                self.explain(drill, problem)
        if not self.keep:
            shutil.rmtree(place, ignore_errors=True)

    def explain(self, drill, problem):
        print(f"  {problem}")
        print(f"  alone: python3 {pathlib.Path(__file__)} {drill.what} --keep")
        print(f"  FOLDER={drill.folder} {shlex.join(map(str, drill.command))}")
        for path in sorted(drill.folder.glob("rank-*")):
            print(f"  {path.name}: {' '.join(path.read_text().split(chr(10)))}")
        for line in (text_of(drill.folder / "output") or "").splitlines()[-15:]:
            print(f"  | {line}")
        sys.stdout.flush()

    def print(self):
        faults = sorted({one.fault for one in self.rounds})
        print(f"\nrounds, by call and fault\n{'':18}" + "".join(f"{f:>7}" for f in faults))
        for kind in KINDS:
            row = [sum(one.kind == kind and one.fault == f for one in self.rounds) for f in faults]
            print(f"{kind:18}" + "".join(f"{n or '-':>7}" for n in row))
        for carrier in RANKS:
            print(f"{carrier}: {sum(one.carrier == carrier for one in self.rounds)} rounds")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
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
        rounds = rounds_of_the_suite(arguments.seed)
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
    print(f"the last rank ended {table.latest:.2f} s after the fault; {DEADLINE + SLACK} s are allowed")
    print(f"{len(rounds)} rounds in {time.monotonic() - begin:.0f} s, {len(table.failed)} failed")
    for what in table.failed:
        print(f"failed: {what}")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
