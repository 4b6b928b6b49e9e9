"""Three ways of shards to the ranks: a shared folder, a copy on the host's disk, a web server with a
cache. Whatever the server does, the weights are those of the folder, or there is a clear error."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from peal_cli import MPI_ENVIRONMENT, PealTest, kill_tree, run, run_failing, start
from shard_server import Fault, Server

os.environ["no_proxy"] = MPI_ENVIRONMENT["no_proxy"] = "127.0.0.1"

SHARDS = 12
JOB = """
data {{
  train {{ shards {{ {source} }} }}
  preprocess {{ scale {{}} }}
}}
model {{ cnn {{ filters: 4 hidden: 16 }} }}
optimizer {{ adam {{ learning_rate: 0.002 }} }}
train {{ epochs: {epochs} global_batch: 60 seed: 3 }}
parallel {{ virtual_ranks: 6 }}
eval {{ every_epochs: 0 }}
run {{ directory: "{run}" log_every_steps: 5 }}
"""
WINDOWED = ["data.shuffle_window_shards=3"]
QUICK = " tries: 4 backoff_seconds: 0.02 connect_seconds: 5"


def human(count):
    """As the program prints bytes."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    raise ValueError(count)


class Reach(PealTest):
    @classmethod
    def setUpClass(cls):
        cls.common = pathlib.Path(tempfile.mkdtemp(prefix="peal-reach-"))
        cls.addClassCleanup(shutil.rmtree, cls.common, ignore_errors=True)
        cls.shards = cls.common / "shards"
        maker = cls("run_shard")
        maker.setUp()
        try:
            done = run(["shard", maker.job(limit=1000), "--count", SHARDS, "--out", cls.shards])
            assert done.returncode == 0, done.stderr
            cls.hashes = {}
            for name, overrides in (("global", []), ("windowed", WINDOWED)):
                maker.train(maker.reach_job(f'directory: "{cls.shards}"'), 1,
                            overrides, ["--fresh"])
                cls.hashes[name] = maker.hash(maker.folder / "run")
        finally:
            maker.doCleanups()
        assert cls.hashes["global"] != cls.hashes["windowed"]
        cls.bytes = sum(path.stat().st_size for path in cls.shards.glob("*.peal"))

    def run_shard(self):
        pass

    def reach_job(self, source, epochs=2):
        path = self.folder / "reach.textproto"
        path.write_text(JOB.format(source=source, epochs=epochs, run=self.folder / "run"))
        return path

    def web_job(self, server, extra=QUICK, epochs=2, cache="cache"):
        return self.reach_job(f'url: "{server.url}" cache: "{self.folder / cache}"{extra}', epochs)

    def serve(self, fault=None, **options):
        server = Server(self.shards, fault, **options)
        self.addCleanup(server.close)
        return server

    def cached(self, ending, cache="cache"):
        return sorted((self.folder / cache).glob(f"*/*{ending}"))

    def check_cache(self, cache="cache"):
        """What has its final name is whole and right."""
        for path in self.cached(".peal", cache):
            self.assertEqual(path.read_bytes(), (self.shards / path.name).read_bytes(), path)

    def check(self, job, name, ranks=0, overrides=()):
        said = self.train(job, ranks, [*(WINDOWED if name == "windowed" else []), *overrides],
                          ["--fresh"])
        self.assertEqual(self.hash(self.folder / "run"), self.hashes[name])
        return said

    def refuse(self, job, code, *expected, ranks=0, overrides=()):
        words = ["train", job, "--fresh"]
        for override in overrides:
            words += ["--set", override]
        done, codes = run_failing(words, ranks, timeout=120)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(codes, [code] * ranks)
        for text in expected:
            self.assertIn(text, done.stderr)
        self.check_cache()
        return done.stderr

    def test_same_bits_every_way(self):
        server = self.serve()
        folder = f'directory: "{self.shards}"'
        for name in ("global", "windowed"):
            for ranks in (1, 2, 3):
                self.check(self.reach_job(folder), name, ranks)
                local = f"copy-{name}-{ranks}"
                said = self.check(self.reach_job(f'{folder} cache: "{self.folder / local}"'), name,
                                  ranks)
                if name == "global":  # once a host, not once a rank
                    self.assertIn(f"fetched {human(self.bytes)} of records", said)
                self.assertEqual(len(self.cached(".peal", local)), SHARDS)
                sent, cache = server.sent(), f"web-{name}-{ranks}"
                self.check(self.web_job(server, cache=cache), name, ranks)
                self.assertEqual(server.sent() - sent, self.bytes, "once a host, not once a rank")
                self.assertEqual(self.cached(".part", cache), [])
        # Once more: nothing but the manifest.
        sent = server.sent()
        said = self.check(self.web_job(server, cache="web-global-1"), "global", 2)
        self.assertNotIn("fetched", said)
        self.assertEqual(server.sent(), sent)

    def test_local_ranks_share_a_cache(self):
        server = self.serve()
        self.train(self.web_job(server), 0, [], ["--fresh", "--local", "3"])
        self.assertEqual(self.hash(self.folder / "run"), self.hashes["global"])
        self.assertEqual(server.sent(), self.bytes)

    def test_connections_that_drop_are_gone_on_with(self):
        # Every shard comes in pieces of 40,000 bytes.
        server = self.serve(lambda name, number, first: name.endswith(".peal") and
                            Fault(cut=40000))
        for name, cache in (("global", "a"), ("windowed", "b")):
            before = server.sent()
            self.check(self.web_job(server, QUICK.replace("tries: 4", "tries: 6"), cache=cache),
                       name, 2)
            self.assertEqual(server.sent() - before, self.bytes, "bytes came twice")
        self.assertTrue(server.resumed())
        self.assertTrue(all(first % 40000 == 0 for first in server.resumed()))

    def test_a_server_without_ranges(self):
        server = self.serve(lambda name, number, first: name.endswith(".peal") and
                            Fault(cut=30000 if number == 1 else None, no_range=True))
        self.check(self.web_job(server), "global")
        self.assertEqual(len(server.resumed()), SHARDS)

    def test_wrong_bytes(self):
        for flip in (70, 5000, 5000 + 784 * 50, 70000):
            shutil.rmtree(self.folder / "cache", ignore_errors=True)
            server = self.serve(lambda name, number, first, at=flip: number == 1 and Fault(flip=at))
            self.check(self.web_job(server), "windowed", 2)
            self.assertEqual(server.count(), 2 * SHARDS)
            self.check_cache()
        for ranks in (0, 2):
            shutil.rmtree(self.folder / "cache", ignore_errors=True)
            server = self.serve(lambda name, number, first: Fault(flip=5000))
            said = self.refuse(self.web_job(server), 2, server.url, "section records",
                               "tried 4 times", ranks=ranks)
            self.assertEqual(self.cached(".peal"), [])
            self.assertEqual(said.count("tried 4 times"), 1, said)

    def test_servers_that_are_not_well(self):
        shard = "shard-00003-of-00012.peal"

        def broken(fault, name=shard):
            return self.serve(lambda n, number, first: fault if n == name else None)

        server = broken(Fault(status=503))
        self.refuse(self.web_job(server), 3, f"{server.url}/{shard}", "HTTP 503", "not well",
                    "tried 4 times", ranks=2)
        server = broken(Fault(status=404))
        self.refuse(self.web_job(server), 2, f"{server.url}/{shard}", "HTTP 404", "tried 1 time")
        server = broken(Fault(status=403), "manifest.textproto")
        self.refuse(self.web_job(server), 2, f"{server.url}/manifest.textproto", "HTTP 403",
                    "tried 1 time", ranks=2)
        page = b"<html><title>Log in</title>" + b" " * 100 + b"</html>"
        server = broken(Fault(body=page))
        self.refuse(self.web_job(server), 2, f"{server.url}/{shard}", "no shard file",
                    "tried 4 times")
        server = broken(Fault(body=page), "manifest.textproto")
        self.refuse(self.web_job(server), 2, "no manifest of shards", "<html>", "tried 4 times")
        server = broken(Fault(trim=100))
        self.refuse(self.web_job(server), 3, f"{server.url}/{shard}", "tried 4 times")
        server = broken(Fault(pad=100))
        self.refuse(self.web_job(server, cache="long"), 3, f"{server.url}/{shard}",
                    "bytes that are allowed", "tried 4 times")
        server = self.serve(lambda n, number, first: n == shard and
                            Fault(cut=30000 if number == 1 else None, shift=1000))
        self.refuse(self.web_job(server, cache="shifted"), 3, "bytes from 29000 on, where those "
                    "from 30000 on were asked for", "tried 4 times")
        server = broken(Fault(location="/set/" + shard))
        self.refuse(self.web_job(server), 2, f"{server.url}/{shard}", "redirects")
        server = broken(Fault(location="file:///etc/passwd"))
        self.refuse(self.web_job(server), 2, f"{server.url}/{shard}", "rotocol")
        server = broken(Fault(stall=30))
        start_time = time.monotonic()
        self.refuse(self.web_job(server, QUICK.replace("tries: 4", "tries: 2") +
                                 " stall_seconds: 0.5", cache="stalled"), 3, "fewer than 1024 bytes in 0.5 s",
                    "tried 2 times")
        self.assertLess(time.monotonic() - start_time, 20)
        server = self.serve()
        server.close()
        self.refuse(self.web_job(server), 3, "manifest.textproto", "tried 4 times", ranks=2)

    def test_a_server_that_recovers(self):
        kinds = [Fault(status=500), Fault(cut=1000), Fault(stall=30)]
        server = self.serve(lambda name, number, first: number <= 3 and kinds[number - 1])
        self.check(self.web_job(server, QUICK.replace("tries: 4", "tries: 5") +
                                " stall_seconds: 0.3"), "windowed", 2)

    def test_a_redirect_is_followed(self):
        other = self.serve()
        server = self.serve(lambda name, number, first: Fault(location=f"{other.url}/{name}"))
        self.check(self.web_job(server), "global")
        self.assertEqual(other.sent(), self.bytes)

    def test_a_slow_server_is_waited_for_and_named(self):
        # The first window comes at once; what follows takes longer than its training.
        server = self.serve(lambda name, number, first: Fault(
            rate=None if server.count() <= 3 else 40000))
        said = self.train(self.web_job(server), 2, WINDOWED, ["--fresh", "--timeline",
                                                              self.folder / "trace.json"])
        self.assertEqual(self.hash(self.folder / "run"), self.hashes["windowed"], said)
        logs = "".join(p.read_text() for p in (self.folder / "run/logs").glob("*.log"))
        self.assertRegex(logs, r"waited [\d.]+ s for \S+\.peal")
        trace = json.loads((self.folder / "trace.json").read_text())
        events = trace["traceEvents"] if isinstance(trace, dict) else trace
        longest = max(e.get("dur", 0) for e in events if e.get("name", "").startswith("data"))
        self.assertGreater(longest, 500000, "microseconds in the lane `data`")

    def test_fetched_ahead_no_step_waits(self):
        server = self.serve()
        self.train(self.web_job(server), 1, WINDOWED, ["--fresh"])
        # Windows come in their order: by the time that a window is read the next has been asked for.
        order = [name for name, _, _ in server.requests if name.endswith(".peal")]
        self.assertEqual(len(order), len(set(order)))
        logs = "".join(p.read_text() for p in (self.folder / "run/logs").glob("*.log"))
        self.assertNotIn("too slowly", logs)

    def test_a_long_fetch_is_told_of(self):
        server = self.serve(lambda name, number, first: Fault(rate=120000))
        said = self.check(self.web_job(server), "global")
        self.assertRegex(said, rf"fetching records: \d+% of {human(self.bytes)} .*/s, left 0:0\d")

    def test_a_small_cache(self):
        largest = max(p.stat().st_size for p in self.shards.glob("*.peal"))
        server = self.serve()
        size = f" cache_size: \"{7 * largest}\""
        self.check(self.web_job(server, QUICK + size), "windowed", 2)
        self.assertLessEqual(sum(p.stat().st_size for p in self.cached("")
                                 if ".peal" in p.name), 7 * largest)
        self.assertGreater(server.sent(), self.bytes)  # what was dropped came again
        self.check_cache()
        self.refuse(self.web_job(server, QUICK + f" cache_size: \"{5 * largest}\""), 2,
                    "raise cache_size", ranks=2, overrides=WINDOWED)
        self.refuse(self.web_job(server, QUICK + size), 2, "raise cache_size")

    def test_two_runs_share_a_cache(self):
        server = self.serve(lambda name, number, first: Fault(rate=400000))
        job = self.web_job(server)
        runs = [start(["train", job, "--set", f"run.directory={self.folder / name}"], 2)
                for name in ("one", "two")]
        for process in runs:
            said, _ = process.communicate(timeout=120)
            self.assertEqual(process.returncode, 0, said)
        for name in ("one", "two"):
            self.assertEqual(self.hash(self.folder / name), self.hashes["global"])
        self.assertEqual(server.sent(), self.bytes)

    def wait_for(self, condition, process):
        end = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), end, "waited in vain")
            self.assertIsNone(process.poll(), "ended too early")
            time.sleep(0.01)

    def test_killed_in_mid_epoch_and_resumed_on_other_ranks(self):
        # The records that step 13 needs come when the run has been killed, after step 7.
        killed = threading.Event()
        server = self.serve(lambda name, number, first: server.count() > 9 and
                            not killed.wait(120) and None)
        self.train(self.reach_job(f'directory: "{self.shards}"', epochs=6), 1, WINDOWED, ["--fresh"])
        expected = self.hash(self.folder / "run")
        shutil.rmtree(self.folder / "run")
        job = self.web_job(server, epochs=6)
        every = ["--set", "checkpoint.every_steps=7", "--set", WINDOWED[0]]
        process = start(["train", job, *every], 3)
        self.wait_for(lambda: list((self.folder / "run/checkpoints").glob("step-*/manifest*")),
                      process)
        kill_tree(process)
        process.communicate(timeout=30)
        killed.set()
        done = run(["inspect", self.folder / "run"])
        step = int(done.stdout.split("step ")[1].split(",")[0])
        self.assertNotEqual(step % 17, 0, "not in the middle of an epoch")
        said = self.train(job, 2, [WINDOWED[0], "checkpoint.every_steps=7"])
        self.assertIn("going on after step", said)
        self.assertEqual(self.hash(self.folder / "run"), expected)
        self.check_cache()

    def check_stop(self, job, ranks, number, seconds):
        def came():
            return sum(path.stat().st_size for path in self.cached(".peal") + self.cached(".part"))
        before = came()
        process = start(["train", job], ranks)
        self.wait_for(lambda: came() > before, process)
        begin = time.monotonic()
        os.kill(process.pid, number)
        said, _ = process.communicate(timeout=60)
        self.assertLess(time.monotonic() - begin, seconds, said)
        self.assertNotEqual(process.returncode, 0)
        self.check_cache()

    def test_stopped_while_it_fetches(self):
        # Minutes for all of it.
        slow = self.serve(lambda name, number, first: Fault(rate=4000))
        for ranks, number in ((0, signal.SIGINT), (2, signal.SIGINT), (0, signal.SIGTERM)):
            self.check_stop(self.web_job(slow), ranks, number, 5)
        # A warning of the batch system's: 2 s for what is under way.
        self.check_stop(self.web_job(slow), 0, signal.SIGUSR1, 6)
        # What came is gone on with.
        server = self.serve()
        self.check(self.web_job(server), "global", 2)
        self.assertLess(server.sent(), self.bytes)

    def test_https(self):
        for name in ("one", "other"):
            made = subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                 "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                 self.folder / f"{name}.key", "-out", self.folder / f"{name}.crt"],
                capture_output=True, text=True)
            self.assertEqual(made.returncode, 0, made.stderr)
            (self.folder / f"{name}.pem").write_text(
                (self.folder / f"{name}.key").read_text() + (self.folder / f"{name}.crt").read_text())
        server = self.serve(certificate=self.folder / "one.pem")
        self.refuse(self.web_job(server), 2, server.url, "certificate", "tried 1 time")
        other = QUICK + f' ca_file: "{self.folder / "other.crt"}"'
        self.refuse(self.web_job(server, other), 2, "certificate", ranks=2)
        self.assertEqual(server.requests, [])
        trusted = QUICK + f' ca_file: "{self.folder / "one.crt"}"'
        self.check(self.web_job(server, trusted), "windowed", 2)
        # From https nothing leads to http.
        plain = self.serve()
        server = self.serve(lambda name, number, first: Fault(location=f"{plain.url}/{name}"),
                            certificate=self.folder / "one.pem")
        shutil.rmtree(self.folder / "cache")
        self.refuse(self.web_job(server, trusted), 2, "rotocol")
        self.assertEqual(plain.requests, [])

    def test_eval_and_shard_fetch_too(self):
        server = self.serve()
        self.check(self.web_job(server), "global")
        job = self.web_job(server)
        job.write_text(job.read_text().replace(
            "preprocess", f'test {{ shards {{ url: "{server.url}" cache: "{self.folder}/e" }} }}\n'
            "  preprocess", 1))
        done = run(["eval", self.folder / "run", job], 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("test_accuracy", done.stdout)
        again = run(["shard", job, "--count", 3, "--out", self.folder / "again", "--verify"])
        self.assertEqual(again.returncode, 0, again.stderr)

    def test_wrong_jobs(self):
        folder = f'directory: "{self.shards}"'
        for source, overrides, expected in (
                ('url: "http://a"', [], "shards.cache: is missing"),
                ('cache: "c"', [], "shards.directory: is missing"),
                (f'{folder} url: "http://a" cache: "c"', [], "given both"),
                ('url: "ftp://a" cache: "c"', [], "http:// or https://"),
                (f'{folder} cache_size: "1GB"', [], "needs cache"),
                (f'{folder} cache: "c" cache_size: "much"', [], "cache_size"),
                (f'{folder} ca_file: "x"', [], "is for url only"),
                (folder, ["data.shuffle_window_shards=2", "data.shuffle=false"], "data.shuffle: true"),
                (f'{folder} cache: "{self.folder / "c"}"',
                 ["data.shuffle_window_shards=2",
                  "data.preprocess[0]={standardize {by: PER_FEATURE}}"], "PER_FEATURE")):
            if "PER_FEATURE" in expected:
                job = self.reach_job(source)
                job.write_text(job.read_text().replace("scale {}",
                                                       "standardize { by: PER_FEATURE }"))
                self.refuse(job, 2, expected, ranks=2, overrides=overrides[:1])
            else:
                self.refuse(self.reach_job(source), 2, expected, overrides=overrides)


if __name__ == "__main__":
    unittest.main()
