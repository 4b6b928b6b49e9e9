"""The bundle of cluster/bundle.sh on two hosts that have nothing else of Peal's: by mpirun and ssh,
under a real Slurm, and by the examples for people in cluster/. One hash, that of the build tree.

It makes a bundle and a test bed with Slurm, so it is slow. Needs root and patchelf."""
import pathlib
import re
import subprocess
import unittest

from bed import BedTest, testbed
from peal_cli import PEAL, SOURCE, run

# In each host's own /tmp: nothing of it is shared.
BUNDLE = "/tmp/srv/peal"
# What a host could use instead of the bundle's. The bed hides them.
LIBRARIES = "libmpi.so.* libopen-rte.so.* libopen-pal.so.* libdnnl.so.* libprotobuf.so.*"
HIDE = f"""cd /usr/lib/x86_64-linux-gnu
for file in {LIBRARIES} /usr/bin/orted.openmpi /usr/bin/orterun.openmpi /usr/bin/orted /usr/bin/orterun; do
  [ ! -e "$file" ] || mount --bind /dev/null "$(readlink -f "$file")"
done
! mpirun --version && ! {PEAL} --version"""


class BundleHosts(BedTest):
    UP = (2, "--slurm")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        archive = cls.shared / "peal.tar.gz"
        cls.done([SOURCE / "cluster/bundle.sh", "--build", pathlib.Path(PEAL).parent, "-o", archive])
        for host in ("h1", "h2", "control"):
            cls.on(host, "sh", "-c", f"mkdir -p '{BUNDLE}' && "
                                     f"tar xf {archive} -C '{BUNDLE}' --strip-components=1")
            cls.on(host, "sh", "-c", HIDE)
        cls.done([PEAL, "train", cls.job_in(cls.shared)])
        cls.wanted = cls.hash_of(cls.shared / "run")

    @staticmethod
    def done(words):
        ended = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300)
        if ended.returncode != 0:
            raise AssertionError(f"{words}\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    @staticmethod
    def on(host, *words, code=0):
        ended = testbed("exec", host, *words, timeout=300)
        if ended.returncode != code:
            raise AssertionError(f"{words}\n{ended.stdout}{ended.stderr}")
        return ended.stdout + ended.stderr

    @staticmethod
    def hash_of(folder):
        return run(["inspect", "--hash", folder]).stdout.strip()

    @classmethod
    def job_in(cls, folder):
        """The main job for twenty steps on up to eight ranks, in folder/run."""
        text = (SOURCE / "examples/fashion_mnist_cnn.textproto").read_text()
        for given, wanted in (("  epochs: 6\n", "  max_steps: 20\n"),
                              ("virtual_ranks: 4", "virtual_ranks: 8"),
                              ('"runs/fashion_mnist_cnn"', f'"{folder}/run" tensorboard: false')):
            assert given in text, given
            text = text.replace(given, wanted)
        path = folder / "job.textproto"
        path.write_text(text + "eval { every_epochs: 0 }\n")
        return path

    def check(self, said, ranks=4):
        self.assertIn(f"{ranks} ranks (host)", said)
        self.assertEqual(self.hash_of(self.folder / "run"), self.wanted)

    def test_by_ssh_from_a_bare_environment(self):
        said = self.on("h1", "env", "-i", "PATH=/usr/bin:/bin", f"{BUNDLE}/peal", "launch", "--hosts",
                       "h1:2,h2:2", self.job_in(self.folder))
        self.check(said)
        log = (self.folder / "run/logs/rank-3.log").read_text()
        self.assertRegex(log, "binding: CPU")

    def test_a_folder_that_needs_quotes(self):
        said = self.on("h1", "sh", "-c", f"cp -r {BUNDLE} '/tmp/a b' && "
                                         f"'/tmp/a b/peal' launch --hosts h1,h2 "
                                         f"{self.job_in(self.folder)}", code=2)
        self.assertIn("starts nothing on other hosts from '/tmp/a b/bin'; move the bundle", said)

    def test_the_hostfile_example(self):
        hostfile = self.folder / "hosts"
        text = (SOURCE / "cluster/hosts.example").read_text()
        hostfile.write_text(re.sub(r"(?m)^node[34].*\n", "", text).replace("node", "h"))
        self.assertEqual(hostfile.read_text().count("slots=4\n"), 2)
        said = self.on("h1", f"{BUNDLE}/peal", "doctor", "--hostfile", hostfile, "--directory",
                       self.folder)
        self.assertIn("h2", said)
        said = self.on("h1", f"{BUNDLE}/peal", "launch", "--hostfile", hostfile,
                       self.job_in(self.folder))
        self.check(said, ranks=8)

    def test_srun(self):
        ended = testbed("srun", "--mpi=pmix", "--nodes", 2, "--ntasks-per-node", 2, f"{BUNDLE}/peal",
                        "train", self.job_in(self.folder))
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.check(ended.stdout)

    def test_submit(self):
        said = self.on("control", f"{BUNDLE}/peal", "submit", "--nodes", 2, "--ranks-per-node", 2,
                       "--follow", self.job_in(self.folder))
        self.assertRegex(said, r"job \d+: COMPLETED")
        self.check(said)

    def test_mpirun_in_an_allocation(self):
        ended = testbed("salloc", "--nodes", 2, "--ntasks-per-node", 2, f"{BUNDLE}/peal", "launch",
                        "--with", "mpirun", "--hosts", "h1:2,h2:2", self.job_in(self.folder))
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.check(ended.stdout)

    def test_the_batch_example(self):
        self.job_in(self.folder)
        self.on("control", "sh", "-c",
                f"cd {self.folder} && PATH='{BUNDLE}':$PATH sbatch --wait {SOURCE}/cluster/"
                f"job.example.sbatch")
        said = next(self.folder.glob("peal-*.log")).read_text()
        self.check(said, ranks=8)


if __name__ == "__main__":
    unittest.main()
