"""`peal bench collectives --tune`: what it stores, who finds it and what is refused."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from peal_cli import MPI_ENVIRONMENT, PEAL, run, run_failing

INPUT = 2
INSIDE = {"hosts": 1, "ranks_per_host": 2, "cpu": "Any", "meeting": 4e-7, "copied": 1e-10,
          "added": 5e-11}
ALWAYS_SLICES = {**INSIDE, "meeting": 0}
QUICK = ["--warmup", 1, "--iterations", 3]


def text_of(values):
    lines = [f"inside.{key}: {value}" for key, value in values.items()]
    return "\n".join(["version: 1", *lines, "end: tuning", ""])


def values_of(path):
    lines = [line.split(": ", 1) for line in path.read_text().splitlines()
             if not line.startswith("#")]
    return dict(lines)


class Tune(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="peal-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def file(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    WORDS = ["bench", "collectives", "--json", "--min", "4", "--max", "4KiB", "--factor", "32", *QUICK]

    def bench(self, arguments=(), environment=None):
        """Three sizes on two ranks; each environment is one rank's."""
        ranks = environment if isinstance(environment, list) else [environment or {}] * 2
        words = [PEAL, *map(str, [*self.WORDS, *arguments])]
        command = ["mpirun"]
        for one in ranks:
            command += [] if command == ["mpirun"] else [":"]
            command += ["-np", "1", "env", *(f"{key}={value}" for key, value in one.items()),
                        *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120,
                              env=MPI_ENVIRONMENT)

    def ways(self, result):
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        return [line["way"] for line in lines if line["in_place"]]

    # ---- What it fits and stores ----

    def test_end_to_end(self):
        for ranks in (2, 4):
            path = self.folder / f"of-{ranks}/tuning"  # a folder that is not there yet
            done = run(["bench", "collectives", "--tune", "--tune-file", path, *QUICK], ranks)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            said = done.stdout.splitlines()
            self.assertRegex(said[0], rf"inside a host \(hosts 1, ranks per host {ranks}\): "
                                      r"meeting [\d.]+ us, copied [\d.]+ ns/B, added [\d.]+ ns/B; "
                                      r"off by \d+% \(median\), \d+% \(most\)")
            self.assertRegex(said[1], "^# all_reduce goes by (mail, from [0-9]+ bytes on )?slices$")
            self.assertEqual(said[2], f"# stored in {path}")
            values = values_of(path)
            self.assertEqual((values["version"], values["inside.hosts"],
                              values["inside.ranks_per_host"]), ("1", "1", str(ranks)))
            self.assertIn(values["inside.cpu"], pathlib.Path("/proc/cpuinfo").read_text())
            self.assertGreater(float(values["inside.meeting"]), 0)
            self.assertNotIn("between.step", values)
            self.assertEqual([file.name for file in path.parent.iterdir()], ["tuning"])
            # What it said is what a job does that finds the file.
            switch = re.search(r"from (\d+) bytes", said[1])
            limit = int(switch.group(1)) if switch else 1
            sizes = [4, 128, 4096]
            self.assertEqual(self.ways(self.bench(["--tune-file", path])),
                             ["mail" if size < limit else "slices" for size in sizes])

    def test_what_was_fitted_before_stays(self):
        between = "".join(f"between.{key}: {value}\n" for key, value in
                          {"hosts": 4, "ranks_per_host": 1, "cpu": "Any", "step": 3e-5,
                           "message": 2e-6, "sent": 8e-9}.items())
        path = self.file("tuning", f"version: 1\n{between}end: tuning\n")
        self.assertEqual(run(["bench", "collectives", "--tune", "--tune-file", path, *QUICK],
                             2).returncode, 0)
        values = values_of(path)
        self.assertEqual((values["between.sent"], values["between.hosts"]), ("8e-09", "4"))
        self.assertIn("inside.meeting", values)
        # A broken one is replaced, and that is said.
        path.write_text("version: 1\n")
        done = run(["bench", "collectives", "--tune", "--tune-file", path, *QUICK], 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("# replacing ", done.stdout)
        self.assertIn("inside.meeting", values_of(path))

    # ---- Who finds it ----

    def test_places(self):
        path = self.file("cache/peal/tuning", text_of({**ALWAYS_SLICES, "cpu": self.cpu()}))
        slices, built_in = ["slices"] * 3, ["mail", "mail", "slices"]
        cache = {"XDG_CACHE_HOME": self.folder / "cache"}
        self.assertEqual(self.ways(self.bench(["--tune-file", path])), slices)
        self.assertEqual(self.ways(self.bench([], {"PEAL_TUNE": path})), slices)
        self.assertEqual(self.ways(self.bench([], {"PEAL_TUNE": "", **cache})), built_in)
        unset = MPI_ENVIRONMENT.pop("PEAL_TUNE")
        try:
            self.assertEqual(self.ways(self.bench([], cache)), slices)
            home = self.folder / "home"
            shutil.copytree(self.folder / "cache", home / ".cache")
            self.assertEqual(self.ways(self.bench([], {"HOME": home})), slices)
            # One found by default that cannot be used costs a warning.
            for text, expected in ((text_of({**ALWAYS_SLICES, "cpu": "Another"}), "Another"),
                                   ("version: 7\n", "version 7"), ("rubbish", "key: value")):
                path.write_text(text)
                result = self.bench([], cache)
                self.assertEqual(self.ways(result), built_in)
                said = [line for line in result.stderr.splitlines() if str(path) in line]
                self.assertEqual(len(said), 1, result.stderr)
                self.assertIn(expected, said[0])
                self.assertIn("using built-in costs", said[0])
        finally:
            MPI_ENVIRONMENT["PEAL_TUNE"] = unset

    def cpu(self):
        match = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
        return match.group(1) if match else os.uname().machine

    def test_rank_0_decides_for_all(self):
        slices = {"PEAL_TUNE": self.file("slices", text_of(ALWAYS_SLICES))}
        mail = {"PEAL_TUNE": self.file("mail", text_of(INSIDE))}
        broken = {"PEAL_TUNE": self.file("broken", "version: 0\n")}
        for other in (mail, broken, {"PEAL_TUNE": self.folder / "absent"}):
            self.assertEqual(self.ways(self.bench([], [slices, other])), ["slices"] * 3)
        self.assertEqual(self.ways(self.bench([], [mail, slices])), ["mail", "mail", "slices"])

    # ---- What is refused ----

    def test_broken_files_end_all_ranks(self):
        good = text_of(INSIDE)
        cases = {"absent": (None, "is no file"), "empty": ("", '"version" is missing'),
                 "version": (good.replace("version: 1", "version: 2"), "this Peal reads 1"),
                 "nan": (good.replace("4e-07", "nan"), "inside.meeting: nan; allowed: 0 to 10"),
                 "negative": (good.replace("5e-11", "-5e-11"), "inside.added: -5e-11; allowed"),
                 "huge": (good.replace("5e-11", "1e300"), "inside.added: 1e+300; allowed"),
                 "cut": (good[:-4], "cut short"), "long": ("#" * 70000, "at most 65536"),
                 "unknown": ("colour: red\n" + good, 'unknown key "colour"')}
        for name, (text, expected) in cases.items():
            path = self.folder / name if text is None else self.file(name, text)
            for arguments, environment in ((["--tune-file", path], {}), ([], {"PEAL_TUNE": path})):
                with self.subTest(name=name, environment=environment):
                    result, codes = run_failing([*self.WORDS, *arguments], 2,
                                                settings=[environment] * 2)
                    self.assertEqual(result.returncode, INPUT, result.stdout + result.stderr)
                    self.assertEqual(codes, [INPUT] * 2)
                    said = [line for line in result.stderr.splitlines()
                            if line.startswith("peal: ")]
                    self.assertEqual(len(said), 1, result.stderr)
                    self.assertIn(expected, said[0])
                    self.assertIn(str(path), said[0])

    def test_wrong_use(self):
        cases = [(["--tune"], 0, "mpirun"), (["--tune", "--local", 2], 0, "mpirun"),
                 (["--tune", "--tune-file", self.folder / "one"], 1, "2 and more"),
                 (["--tune", "--tune-file", "/proc/peal/tuning", *QUICK], 2, "/proc/peal"),
                 (["--way", "ring", "--local", 2], 0, "mpirun"), (["--tune-file", "x"], 0, "mpirun"),
                 (["--way", "detour"], 2, "mail, slices, small, doubling, ring")]
        for arguments, ranks, expected in cases:
            with self.subTest(arguments=arguments):
                result, codes = run_failing(["bench", "collectives", *arguments], ranks)
                self.assertEqual(result.returncode, INPUT, result.stdout + result.stderr)
                self.assertEqual(codes, [INPUT] * ranks)
                self.assertIn(expected, result.stderr)
                self.assertFalse((self.folder / "one").exists())


if __name__ == "__main__":
    unittest.main()
