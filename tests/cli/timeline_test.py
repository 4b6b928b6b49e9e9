"""`peal train --timeline`: one trace of all ranks whose events are complete, well formed, and in an
order that can be; it changes no bit of the run, and a stopped run writes it too."""
import collections
import json
import os
import re
import signal
import subprocess
import time
import unittest

from peal_cli import MPI_ENVIRONMENT, PEAL, PealTest, run, run_failing, start

# mpirun waits this long before it tells its ranks to end, and again before it kills them: a second,
# which is the default, may be too short to save on a slow disk.
MPI_ENVIRONMENT["OMPI_MCA_odls_base_sigkill_timeout"] = "3"

INPUT = 2
VIRTUAL_RANKS = 8
ROUNDING = 0.0021  # times are written to a nanosecond
COMMON = {"ph", "pid", "tid", "name", "args"}
FIELDS = {"M": COMMON, "X": COMMON | {"cat", "ts", "dur"}, "b": COMMON | {"cat", "ts", "id"},
          "e": COMMON | {"cat", "ts", "id"}}
PHASES = ["data", "forward", "backward", "merge"]
SPANS = {*PHASES, "wait", "optimizer", "evaluate", "save"}


class Rank:
    """The events of one process of a trace, by thread; `check` looks at each by itself."""

    def __init__(self, test, pid):
        self.test, self.pid = test, pid
        self.names, self.labels = {}, {}
        self.spans = collections.defaultdict(list)   # by thread name
        self.edges = {"b": {}, "e": {}}
        self.steps = {}

    def add(self, event):
        test = self.test
        test.assertEqual(set(event), FIELDS[event["ph"]], event)
        test.assertIsInstance(event["tid"], int)
        test.assertIsInstance(event["args"], dict)
        if event["ph"] == "M":
            if event["name"] == "thread_name":
                self.names[event["tid"]] = event["args"]["name"]
            elif event["name"].startswith("process_"):
                self.labels[event["name"]] = event["args"]
            return
        test.assertIsInstance(event["ts"], float)
        test.assertIn(event["tid"], self.names, "a thread is named before its events")
        thread = self.names[event["tid"]]
        if event["ph"] == "X":
            test.assertGreaterEqual(event["dur"], 0)
            event["end"] = event["ts"] + event["dur"]
            self.spans[thread].append(event)
        else:
            test.assertEqual((event["cat"], thread), ("queued", "collectives"))
            test.assertNotIn(event["id"], self.edges[event["ph"]])
            self.edges[event["ph"]][event["id"]] = event

    def lanes(self):
        return [self.spans[name] for name in sorted(self.spans) if name.startswith("lane ")]

    def check(self):
        test, labels = self.test, self.labels
        test.assertRegex(labels["process_name"]["name"], rf"^rank {self.pid}\b")
        test.assertEqual(labels["process_sort_index"]["sort_index"], self.pid)
        test.assertEqual(labels["process_labels"]["dropped"], 0)
        self.error = labels["process_labels"]["clock_error_us"]
        test.assertGreaterEqual(self.error, 0)
        test.assertLess(self.error, 1e5)
        lanes = len(self.names) - 2
        test.assertEqual(list(self.names.values()),
                         [f"lane {i}" for i in range(lanes)] + ["collectives", "checkpoint"])
        for thread, spans in self.spans.items():
            self.check_nesting(spans)
            for span in spans:
                if thread.startswith("lane "):
                    test.assertEqual(span["cat"], "compute")
                    test.assertIn(span["name"], SPANS)
                elif thread == "checkpoint":
                    test.assertEqual(span["name"], "write checkpoint")
        self.check_calls()

    def check_nesting(self, spans):
        """Spans of a thread lie side by side or one inside the other."""
        open_ends = []
        for span in sorted(spans, key=lambda s: (s["ts"], -s["dur"])):
            while open_ends and open_ends[-1] <= span["ts"] + ROUNDING:
                open_ends.pop()
            if open_ends:
                self.test.assertLessEqual(span["end"], open_ends[-1] + ROUNDING, span)
            open_ends.append(span["end"])

    def check_calls(self):
        """Calls run one after the other, each from the end of its time in the queue."""
        test, calls = self.test, self.spans["collectives"]
        before = float("-inf")
        for number, call in zip(range(calls[0]["args"]["number"], 1 << 40), calls):
            arguments = call["args"]
            test.assertEqual(set(arguments),
                             {"call", "number", "step", "dtype", "bytes"})
            test.assertEqual(call["cat"], "collective")
            test.assertEqual(arguments["number"], number, "a call is missing")
            test.assertGreaterEqual(call["ts"], before - ROUNDING)
            before = call["end"]
            queued, started = (self.edges[phase].pop(f"{self.pid}.{number}") for phase in "be")
            test.assertEqual((queued["name"], queued["args"]), (call["name"], arguments))
            test.assertLessEqual(queued["ts"], started["ts"])
            test.assertAlmostEqual(started["ts"], call["ts"], 2)
            call["queued"] = queued["ts"]
        test.assertEqual(self.edges, {"b": {}, "e": {}})

    def at_step(self, spans, step):
        """Those of a step; sorted out once, as a stopped run may have made thousands of steps."""
        if id(spans) not in self.steps:
            self.steps[id(spans)] = collections.defaultdict(list)
            for span in spans:
                self.steps[id(spans)][span["args"]["step"]].append(span)
        return self.steps[id(spans)][step]

    def buckets(self, step):
        calls = self.at_step(self.spans["collectives"], step)
        return [c for c in calls if c["name"].startswith("bucket ")]

    def of_step(self, lane, step, name):
        return [s for s in self.at_step(lane, step) if s["name"] == name]


class Timeline(PealTest):
    def load(self, path, ranks):
        text = path.read_text()
        trace = json.loads(text)
        self.assertEqual(set(trace), {"displayTimeUnit", "traceEvents"})
        self.assertEqual(text.count("\n"), len(trace["traceEvents"]) + 2, "one event a line")
        processes = {}
        for event in trace["traceEvents"]:
            pid = event["pid"]
            processes.setdefault(pid, Rank(self, pid)).add(event)
        self.assertEqual(sorted(processes), list(range(ranks)))
        found = [processes[rank] for rank in range(ranks)]
        for process in found:
            process.check()
        return found

    def check(self, path, ranks, steps, accumulate=1, overlap=True):
        """Everything that must hold between the events of a trace of steps `steps`."""
        processes = self.load(path, ranks)
        for step in steps:
            passes = collections.Counter()
            for process in processes:
                self.check_step(process, step, accumulate, overlap, passes)
            self.assertEqual(passes, {(name, v): accumulate for v in range(VIRTUAL_RANKS)
                                      for name in PHASES})
        for process in processes:
            found = {span["args"]["step"] for lane in process.lanes() for span in lane}
            self.assertEqual(found, set(steps))
        self.check_between(processes)
        return processes

    def check_step(self, process, step, accumulate, overlap, passes):
        backwards, merges = [], []  # the last of every lane
        for lane in process.lanes():
            phases = [s for s in process.at_step(lane, step) if s["name"] in PHASES]
            self.assertEqual([s["name"] for s in phases], PHASES * (len(phases) // 4))
            for first in range(0, len(phases), 4):
                for span in phases[first:first + 4]:
                    self.assertEqual(span["args"], phases[first]["args"])
            passes.update((s["name"], s["args"]["virtual_rank"]) for s in phases)
            backwards.append(phases[-2])
            merges.append(phases[-1])

        # A bucket is queued when all of its gradients are ready: not before every lane is in its
        # last backward pass, and the first one before the last lane has ended that.
        buckets = process.buckets(step)
        self.assertEqual([b["name"] for b in buckets], [f"bucket {i}" for i in range(len(buckets))])
        self.assertGreater(len(buckets), 3)
        queued = [b["queued"] for b in buckets]
        self.assertEqual(queued, sorted(queued))
        end = max(s["end"] for s in backwards)
        self.assertGreaterEqual(queued[0], max(s["ts"] for s in backwards) - ROUNDING)
        self.assertLessEqual(queued[-1], max(s["end"] for s in merges) + ROUNDING)
        if overlap:
            self.assertLess(queued[0], end + ROUNDING)
        else:
            self.assertGreaterEqual(queued[0], end - ROUNDING)

        # The main thread waits for each bucket in order, to its end, and updates then.
        main = process.lanes()[0]
        waits = process.of_step(main, step, "wait")
        self.assertEqual([w["args"]["bucket"] for w in waits], list(range(len(buckets))))
        for wait, bucket in zip(waits, buckets):
            self.assertGreaterEqual(wait["end"], bucket["end"] - ROUNDING)
        for update in process.of_step(main, step, "optimizer"):
            number = update["args"].get("bucket", len(buckets) - 1)
            self.assertGreaterEqual(update["ts"], buckets[number]["end"] - ROUNDING)

    def check_between(self, processes):
        """A call is the same one on every rank; no rank leaves a sum before all have come."""
        first = processes[0].spans["collectives"]
        for calls in zip(*(p.spans["collectives"] for p in processes)):
            for call in calls[1:]:
                self.assertEqual((call["name"], call["args"]), (calls[0]["name"], calls[0]["args"]))
            if not calls[0]["args"]["call"].startswith("all_reduce"):
                continue
            for p, call in zip(processes, calls):
                for q, other in zip(processes, calls):
                    self.assertLessEqual(call["ts"], other["end"] + p.error + q.error + 2)
        for process in processes:
            self.assertEqual(len(process.spans["collectives"]), len(first))

    def record(self, ranks, flags=(), overrides=(), name="trace", **job):
        path = self.folder / f"{name}.json"
        said = self.train(self.job(**job), ranks, ["parallel.bucket_size=64KiB", *overrides],
                          ["--timeline", path, *flags])
        self.assertRegex(said, rf"timeline written to {re.escape(str(path))}; the clocks of its "
                               r"ranks agree to \d+ us\n")
        self.assertEqual([p.name for p in self.folder.glob("*.tmp")], [])
        return path

    # ---- The whole run, on any number of ranks ----

    def test_ranks(self):
        steps = range(1, 21)  # 600 records, 64 a step, 2 epochs
        plain = self.folder / "plain"
        self.train(self.job(), 1, [f"run.directory={plain}"])
        for ranks in (1, 2, 3):
            with self.subTest(ranks=ranks):
                processes = self.check(self.record(ranks, ["--fresh"]), ranks, steps)
                self.assertEqual(self.hash(self.folder / "run"), self.hash(plain))
                main = processes[0].lanes()[0]
                # One checkpoint an epoch, written beside the steps by rank 0.
                self.assertEqual([s["args"]["step"] for s in main if s["name"] == "save"], [10, 20])
                self.assertEqual([s["args"]["step"] for s in processes[0].spans["checkpoint"]],
                                 [10, 20])

    def test_lanes_and_parts(self):
        path = self.record(0, ["--local", 2], ["parallel.threads=2", "train.accumulate_steps=2"])
        processes = self.check(path, 2, range(1, 21), accumulate=2)
        self.assertEqual([len(p.lanes()) for p in processes], [2, 2])

    def test_buckets_held_until_backward_has_ended(self):
        path = self.record(2, overrides=["parallel.overlap=false", "parallel.threads=1"])
        self.check(path, 2, range(1, 21), overlap=False)
        held = self.hash(self.folder / "run")
        self.train(self.job(), 1, [], ["--fresh"])
        self.assertEqual(held, self.hash(self.folder / "run"))

    # ---- Which steps, and when it is written ----

    def test_some_steps_are_written_at_once(self):
        job = self.job(limit=4000, epochs=2000)
        path = self.folder / "trace.json"
        process = start(["train", job, "--timeline", path, "--timeline-steps", "3:7", "--set",
                         "parallel.bucket_size=64KiB"], 2)
        try:
            end = time.monotonic() + 60
            while not path.exists():
                self.assertLess(time.monotonic(), end)
                self.assertIsNone(process.poll())
                time.sleep(0.01)
            self.check(path, 2, range(3, 8))
            written = path.read_bytes()
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.communicate(timeout=60)
        self.assertEqual(path.read_bytes(), written)

    def test_a_run_that_goes_on_records_its_own_first_steps(self):
        self.train(self.job(), 2, ["train.max_steps=12"])
        self.check(self.record(2, overrides=["train.max_steps=15"]), 2, range(13, 16))

    def test_ctrl_c(self):
        # The steps to record must by far outlast the seconds that mpirun takes to end a job: steps of
        # 512 records take some 5 ms.
        for ranks in (0, 2):
            with self.subTest(ranks=ranks):
                job = self.job(limit=10000, epochs=2000, run_name=f"run-{ranks}",
                               extra="checkpoint { every_steps: 500 }\n")
                path = self.folder / f"stopped-{ranks}.json"
                process = start(["train", job, "--timeline", path, "--timeline-steps", "1:8000",
                                 "--set", "train.global_batch=512",
                                 "--set", "parallel.bucket_size=64KiB"], ranks)
                metrics = self.folder / f"run-{ranks}" / "metrics.jsonl"
                end = time.monotonic() + 60
                while not metrics.exists() or metrics.read_text().count("\n") < 2:
                    self.assertLess(time.monotonic(), end)
                    time.sleep(0.01)
                os.kill(process.pid, signal.SIGINT)
                output, _ = process.communicate(timeout=60)
                step = int(re.search(r"stopped after step (\d+)", output).group(1))
                self.check(path, max(ranks, 1), range(1, step + 1))

    def test_launch_passes_it_on(self):
        dry = run(["launch", "-n", 2, self.job(), "--timeline", "a trace.json", "--timeline-steps",
                   "2:4", "--dry-run"])
        self.assertIn("--timeline 'a trace.json' --timeline-steps 2:4", dry.stdout)
        path = self.folder / "trace.json"
        done = subprocess.run([PEAL, "launch", "-n", "2", self.job(), "--timeline", path,
                               "--timeline-steps", "2:4", "--set", "parallel.bucket_size=64KiB"],
                              capture_output=True, text=True, timeout=60, env=MPI_ENVIRONMENT)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check(path, 2, range(2, 5))

    # ---- Wrong input ----

    def test_wrong_input(self):
        there = self.folder / "trace.json"
        cases = ((["--timeline", self.folder / "no" / "trace.json"], "no/trace.json"),
                 (["--timeline", self.folder], "is a folder"),
                 (["--timeline", there, "--timeline-steps", "7"], "such as 1:100"),
                 (["--timeline", there, "--timeline-steps", "9:5"], '"9:5"'),
                 (["--timeline", there, "--timeline-steps", "21:30"], "makes steps 1 to 20"),
                 (["--timeline-steps", "1:5"], "--timeline"))
        for flags, expected in cases:
            for ranks in (0, 2):
                with self.subTest(flags=flags, ranks=ranks):
                    done, codes = run_failing(["train", self.job(), *flags], ranks)
                    self.assertEqual(done.returncode, INPUT, done.stdout + done.stderr)
                    self.assertEqual(codes, [INPUT] * ranks)
                    self.assertIn(expected, done.stderr)
                    self.assertNotIn("epoch 1", done.stdout)
                    self.assertEqual(list(self.folder.glob("trace.json*")), [])


if __name__ == "__main__":
    unittest.main()
