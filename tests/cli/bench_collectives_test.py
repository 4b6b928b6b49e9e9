"""`peal bench collectives`: what it prints, that it checks what it measures, what it refuses."""
import json
import math
import unittest

from peal_cli import run, run_failing

INPUT = 2
QUICK = ["--warmup", 1, "--iterations", 3]
FIELDS = {"op", "bytes", "count", "dtype", "ranks", "backend", "algorithm", "way", "memory", "fresh",
          "in_place", "iterations", "time_us", "mean_us", "p99_us", "algbw", "busbw", "wrong"}
BLOCKS = ("reduce_scatter", "all_gather", "gather", "scatter", "all_to_all")
BUS_FACTOR = {"all_reduce": lambda n: 2 * (n - 1) / n, "ordered_tree": lambda n: 2 * (n - 1) / n,
              "reduce": lambda n: 1, "broadcast": lambda n: 1, "ping_pong": lambda n: 1,
              **{op: lambda n: (n - 1) / n for op in BLOCKS}}
PLACES = {"broadcast": [True], "all_to_all": [False], "ping_pong": [False]}  # in place?
SIZE = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i8": 1, "u8": 1, "bool": 1}


class BenchCollectives(unittest.TestCase):
    def bench(self, *arguments, ranks=0):
        result = run(["bench", "collectives", *QUICK, *arguments], ranks)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout

    def measure(self, *arguments, ranks=0):
        """The JSON lines; what holds for every line is checked here."""
        lines = [json.loads(line) for line in
                 self.bench("--json", *arguments, ranks=ranks).splitlines()]
        for line in lines:
            self.assertEqual(set(line) - {"mpi_time_us", "ring_time_us", "ratio"}, FIELDS)
            self.assertEqual(line["wrong"], 0, line)
            self.assertEqual(line["iterations"], 3)
            self.assertGreater(line["time_us"], 0)
            self.assertGreaterEqual(line["p99_us"], line["time_us"])
            self.assertAlmostEqual(line["algbw"] * line["time_us"] * 1e3 / line["bytes"], 1, 6)
            self.assertAlmostEqual(line["busbw"],
                                   line["algbw"] * BUS_FACTOR[line["op"]](line["ranks"]), 6)
            blocks = line["ranks"] if line["op"] in BLOCKS else 1
            self.assertEqual(line["bytes"], line["count"] * blocks * SIZE[line["dtype"]])
        return lines

    # ---- What it prints ----

    def test_columns(self):
        said = self.bench("--min", "4B", "--max", "64KiB", "--factor", 128, "--local", 2)
        head = [line for line in said.splitlines() if line.startswith("#")]
        rows = [line.split() for line in said.splitlines() if not line.startswith("#")]
        names = next(line for line in head if " size " in line).split()
        placement = ["time", "p50", "p99", "algbw", "busbw", "#wrong"]
        self.assertEqual(names, ["#", "size", "count", "type", "redop", "way", *placement, *placement])
        self.assertTrue(any("out-of-place" in line and " in-place" in line for line in head))
        self.assertIn("2 ranks", head[0])
        self.assertEqual([row[:5] for row in rows],
                         [["4", "1", "f32", "sum", "mail"], ["512", "128", "f32", "sum", "mail"],
                          ["65536", "16384", "f32", "sum", "slices"]])
        for row in rows:
            self.assertEqual(len(row), len(names) - 1)
            numbers = [float(value) for value in row[5:]]
            self.assertTrue(all(math.isfinite(number) for number in numbers))
            self.assertEqual((row[10], row[16]), ("0", "0"))

    def test_sizes(self):
        def sizes(*arguments):
            return [line["bytes"] for line in self.measure(*arguments) if line["in_place"]]
        self.assertEqual(sizes("--min", "1KiB", "--max", "4kB"), [1024, 2048])
        self.assertEqual(sizes("--min", "1 KB", "--max", "1000"), [1000])
        # Whole elements; a size that becomes the one before is left out.
        self.assertEqual(sizes("--min", "1", "--max", "32", "--dtype", "f64"), [8, 16, 32])
        whole = self.measure()
        self.assertEqual([line["bytes"] for line in whole],
                         [4 << i // 2 for i in range(54)])

    # ---- Every operation is checked, on any number of ranks ----

    def test_operations(self):
        wide = ["--min", "4B", "--max", "1MiB", "--factor", 64]
        for n in (1, 2, 3, 4):
            for op in BUS_FACTOR:
                if op == "ping_pong" and n == 1:
                    continue
                with self.subTest(op=op, local=n):
                    lines = self.measure("--op", op, *wide, "--local", n)
                    places = PLACES.get(op, [False, True])
                    self.assertEqual([line["in_place"] for line in lines], places * 4)
                    for line in lines:
                        self.assertEqual((line["op"], line["ranks"], line["backend"]),
                                         (op, n, "local"))

        # On two ranks test_compare has all of them.
        for n, ops in {1: ["all_reduce", "broadcast"], 3: BUS_FACTOR,
                       4: ["all_reduce", "reduce_scatter", "all_to_all", "ping_pong"]}.items():
            for op in ops:
                with self.subTest(op=op, ranks=n):
                    lines = self.measure("--op", op, *wide, ranks=n)
                    self.assertEqual({(line["ranks"], line["backend"]) for line in lines},
                                     {(n, "host")})

    def test_dtypes_algorithms_and_memory(self):
        for dtype in SIZE:
            with self.subTest(dtype=dtype):
                lines = self.measure("--dtype", dtype, "--max", "4MiB", "--factor", 16, "--private",
                                     "--local", 3)
                self.assertEqual({(line["dtype"], line["memory"]) for line in lines},
                                 {(dtype, "private")})
        for algorithm in ("ring", "ordered_tree"):
            with self.subTest(algorithm=algorithm):
                lines = self.measure("--algorithm", algorithm, "--min", "1MiB", "--max", "1MiB",
                                     "--private", "--fresh", ranks=2)
                self.assertTrue(all(line["fresh"] for line in lines))
                self.assertEqual({line["algorithm"] for line in lines}, {algorithm})

    # ---- Beside MPI ----

    def test_compare(self):
        for op in BUS_FACTOR:
            with self.subTest(op=op):
                lines = self.measure("--op", op, "--compare", "mpi", "--max", "1MiB", "--factor",
                                     64, ranks=2)
                for line in lines:
                    self.assertTrue(math.isfinite(line["ratio"]) and line["ratio"] > 0)
                    self.assertAlmostEqual(line["ratio"],
                                           line["mpi_time_us"] / line["time_us"], 6)
        for dtype in SIZE:
            with self.subTest(dtype=dtype):
                lines = self.measure("--dtype", dtype, "--compare", "mpi", "--max", "64KiB",
                                     "--factor", 256, ranks=2)
                self.assertTrue(all(line["ratio"] > 0 for line in lines))
        for line in self.measure("--op", "ordered_tree", "--compare", "ring", "--min", "1MiB",
                                 "--max", "1MiB", ranks=2):
            self.assertAlmostEqual(line["ratio"], line["ring_time_us"] / line["time_us"], 6)
        said = self.bench("--compare", "mpi", "--max", 64, ranks=2)
        self.assertIn("MPI v", said.splitlines()[0])
        self.assertEqual(said.count("ratio"), 2)

    # ---- Wrong input ----

    def test_wrong_input(self):
        cases = {("--op", "reduce_all"): ("--op", "all_reduce", "broadcast"),
                 ("--dtype", "f80"): ("--dtype", "f32", "u8"),
                 ("--algorithm", "best"): ("--algorithm", "ring", "ordered_tree"),
                 ("--compare", "nccl"): ("--compare", "mpi", "ring"),
                 ("--compare", "ring", "--op", "gather"): ("--compare ring", "gather",
                                                           "ordered_tree"),
                 ("--op", "ping_pong"): ("--op ping_pong", "1 rank"),
                 ("--max", "12XB"): ("--max", "12XB", "MiB"),
                 ("--max", "128 M B x"): ("--max",),
                 ("--min", "-4"): ("--min", "-4"),
                 ("--min", "0"): ("--min", "0", "1 byte"),
                 ("--min", "8KiB", "--max", "4KiB"): ("--max", "4KiB", "8KiB"),
                 ("--max", "1024TiB"): ("--max", "memory of the host"),
                 ("--factor", "1"): ("--factor", "2"),
                 ("--warmup", "0"): ("--warmup", "1"),
                 ("--iterations", "-1"): ("--iterations",),
                 ("--op", "ordered_tree", "--dtype", "f64"): ("--dtype", "f64", "f32"),
                 ("--op", "broadcast", "--algorithm", "ring"): ("--algorithm", "automatic"),
                 ("--compare", "mpi"): ("--compare mpi", "mpirun"),
                 ("--compare", "mpi", "--local", "2"): ("--compare mpi", "mpirun"),
                 ("--verbose",): ("--verbose",)}
        for arguments, expected in cases.items():
            with self.subTest(arguments=arguments):
                result = run(["bench", "collectives", *arguments])
                self.assertEqual(result.returncode, INPUT, result.stdout + result.stderr)
                self.assertEqual(result.stdout, "")
                for text in expected:
                    self.assertIn(text, result.stderr)
        for arguments in (["--max", "1024TiB"], ["--compare", "mpi", "--local", "2"]):
            result, codes = run_failing(["bench", "collectives", *arguments], ranks=2)
            self.assertEqual(result.returncode, INPUT, result.stderr)
            self.assertEqual(codes, [INPUT] * 2)
            said = [line for line in result.stderr.splitlines() if line.startswith("peal: ")]
            self.assertEqual(len(said), 1, result.stderr)

    def test_help(self):
        said = run(["bench", "collectives", "--help"])
        self.assertEqual(said.returncode, 0)
        for text in ("Examples:", "mpirun -np 2", "--compare", "256MiB", "reduce_scatter"):
            self.assertIn(text, said.stdout)


if __name__ == "__main__":
    unittest.main()
