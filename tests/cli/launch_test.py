"""`peal launch` and `peal submit` without a cluster: what they would run, and what they refuse."""
import os
import subprocess
import unittest

from peal_cli import MPI_ENVIRONMENT, PEAL, PealTest, run

AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


class Launch(PealTest):
    def dry(self, *words, code=0, command="launch", environment=None):
        done = subprocess.run([PEAL, command, *map(str, words), self.job(), "--dry-run"],
                              capture_output=True, text=True, timeout=30,
                              env={**os.environ, **(environment or {})})
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertFalse((self.folder / "run").exists())
        return done.stdout if code == 0 else done.stderr

    def test_hosts_and_slots(self):
        self.assertIn("mpirun -np 3 --host a:2,b:1 --bind-to none", self.dry("--hosts", "a:2,b"))
        self.assertIn("-np 8 --host a:4,b:4 ", self.dry("--hosts", "a,b", "--slots", 4))
        self.assertIn("-np 2 --host a:4,b:4 ", self.dry("--hosts", "a,b", "--slots", 4, "-n", 2))
        hostfile = self.folder / "hosts"
        hostfile.write_text("# the new ones\nnode1 slots=4\n\nnode2:2  # half\nnode3\n")
        self.assertIn("-np 7 --host node1:4,node2:2,node3:1 ", self.dry("--hostfile", hostfile))

    def test_binding_interface_and_environment(self):
        said = self.dry("-n", 2, "--bind", "numa", "--interface", "lo", "--env", "COLOUR=deep blue",
                        "--env", "HOME")
        self.assertRegex(said, "--bind-to none .*peal train .* --bind numa\n")
        self.assertNotIn("--bind ", self.dry("-n", 2, "--bind", "none").replace("--bind-to none", ""))
        self.assertIn("--mca btl_tcp_if_include lo ", said)
        self.assertIn("--mca oob_tcp_if_include lo ", said)
        self.assertIn("-x 'COLOUR=deep blue' -x HOME ", said)
        self.assertIn("btl_tcp_if_include 10.1.0.0/16 ",
                      self.dry("-n", 2, "--interface", "10.1.0.0/16"))

    def test_environment_reaches_the_ranks(self):
        # The loader of a program that finds this variable explains it instead of starting.
        done = run(["launch", "-n", 1, "--env", "LD_DEBUG=help", self.job()])
        self.assertIn("Valid options for the LD_DEBUG", done.stdout + done.stderr)

    def test_what_launch_refuses(self):
        hostfile = self.folder / "hosts"
        for words, expected in (
                ([], "--ranks: how many?"),
                (["--hosts", "a:0"], "--hosts: a: '0' slots; allowed are 1 to 4096"),
                (["--hosts", "a:two"], "'two' slots"),
                (["--hosts", "a:2,a"], "host 'a' is named twice"),
                (["--hosts", "a,,b"], "'' is no host"),
                (["--hosts", "-oProxyCommand=x"], "is no host"),
                (["--hosts", "a;b"], "'a;b' is no host"),
                (["--hosts", "a:2", "-n", "3"], "3 ranks do not fit in the 2 slots of a:2"),
                (["--hosts", "a", "--slots", "0"], "--slots"),
                (["--hosts", "a", "--hostfile", hostfile], "excludes"),
                (["--hostfile", self.folder / "none"], "none"),
                (["-n", "2", "--interface", "eth77"], "no network card 'eth77'"),
                (["-n", "2", "--interface", "10.0.0/8"], "'10.0.0/8' is no network"),
                (["-n", "2", "--env", "PEAL_UNSET"], "'PEAL_UNSET' is not set here"),
                (["-n", "2", "--env", "2A=1"], "neither NAME nor NAME=VALUE"),
                (["-n", "2", "--bind", "chair"], "--bind"),
                (["-n", "2", "--with", "srun"], "no allocation of Slurm")):
            with self.subTest(words=words):
                self.assertIn(expected, self.dry(*words, code=2))
        for text, expected in (("a slots=2\na\n", "hosts:2: host 'a' is named twice"),
                               ("a cpus=2\n", "unknown word 'cpus=2'; allowed: slots=N"),
                               ("a slots=0\n", "hosts:1: a: '0' slots"), ("# a\n", "names no host")):
            hostfile.write_text(text)
            self.assertIn(expected, self.dry("--hostfile", hostfile, code=2))

    def test_a_small_shared_memory(self):
        def launched(size, *words, environment=()):
            script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
            return subprocess.run(
                [*AS_ROOT, "env", *environment, "unshare", "--mount", "sh", "-c", script, "sh", PEAL,
                 "launch", *words, self.job()], env=MPI_ENVIRONMENT, capture_output=True, text=True,
                timeout=60)

        for words in (["-n", "2"], ["--elastic", "1:2"]):
            done = launched("1m", *words)
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertRegex(done.stderr, r"^peal: /dev/shm: 1.0 MiB of 1.0 MiB are free, but Open MPI "
                                          r"wants 5.0 MiB .*--shm-size=")
            self.assertFalse((self.folder / "run").exists())
        self.assertEqual(launched("1m", "-n", "2", "--dry-run").returncode, 0)
        # What a container has unless it is told otherwise; and one that is told to use something else.
        for size, environment in (("62500k", []),
                                  ("1m", ["OMPI_MCA_btl_vader_backing_directory=/tmp"])):
            done = launched(size, "-n", "8", "--fresh", environment=environment)
            self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
            self.assertIn("8 ranks (host)", done.stdout)

    def test_the_batch_script(self):
        script = self.dry("--nodes", 2, "--ranks-per-node", 3, "--cores-per-rank", 4, "--partition",
                          "gpu", "--gpus-per-node", 1, "--time", "2:00:00", "--account", "me",
                          "--requeue", "--sbatch=--qos=low", "--env", "COLOUR=it's blue", "--fresh",
                          command="submit")
        for line in ("--nodes=2", "--ntasks-per-node=3", "--cpus-per-task=4", "--partition=gpu",
                     "--gpus-per-node=1", "--time=2:00:00", "--account=me", "--requeue",
                     "--qos=low", "--signal=B:USR1@60", "--job-name=peal-run",
                     f"--output={self.folder}/run/slurm-%j.log"):
            self.assertIn(f"\n#SBATCH {line}\n", script)
        self.assertIn("scontrol requeue", script)
        self.assertNotIn("requeue \"$", self.dry(command="submit"))
        # The part that would start ranks says what it was given.
        spoken = script.replace(" srun ", " printf '%s\\n' $COLOUR ").replace("scontrol", "echo")
        said = subprocess.run(["bash", "-c", spoken], capture_output=True, text=True, timeout=30)
        self.assertEqual(said.stdout.split()[:2], ["it's", "blue"], said.stderr)
        self.assertIn("--fresh", said.stdout)

    def test_what_submit_refuses(self):
        for words, expected in ((["--nodes", "0"], "--nodes"), (["--array", "x"], "'x'"),
                                (["--set", "train.seed=%a"], "needs --array"),
                                (["--array", "0-3", "--follow"], "--follow"),
                                (["--nodes", "9"], "virtual_ranks"),
                                (["--array", "1-2", "--set", "train.sed=%a"], "train.sed"),
                                (["--env", "PEAL_UNSET"], "PEAL_UNSET")):
            with self.subTest(words=words):
                self.assertIn(expected, self.dry(*words, code=2, command="submit"))
        done = subprocess.run([PEAL, "submit", self.job()], capture_output=True, text=True,
                              timeout=30, env={**os.environ, "PATH": str(self.folder)})
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("sbatch: cannot be started", done.stderr)


if __name__ == "__main__":
    unittest.main()
