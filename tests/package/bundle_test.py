"""cluster/bundle.sh: the archive is the same bytes twice, and in a bare chroot (libc, a shell and
nothing of what Peal is built with) its mpirun trains the main job to the hash of the build tree.

Environment, set by CTest: PEAL_BUILD, PEAL_SOURCE. Needs root, for the chroot, and patchelf."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ.get("PEAL_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("PEAL_BUILD", SOURCE / "build"))
JOB = "examples/fashion_mnist_cnn.textproto"
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
STEPS = 20
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
# What a bare system has: a shell and a few commands, with the libraries that they and any program
# need of libc.
PROGRAMS = {"/bin/sh": "/bin/sh", "/bin/readlink": "/bin/readlink", "/bin/ls": "/bin/ls",
            "/bin/hostname": "/bin/hostname"}
LIBC = ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1",
        "libresolv.so.2", "libnss_files.so.2"]


def said(words, **options):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, **options)
    if done.returncode != 0:
        raise AssertionError(f"{words}\n{done.stdout}{done.stderr}")
    return done.stdout


class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="peal-bundle-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.archive = cls.folder / "first.tar.gz"
        cls.report = said([SOURCE / "cluster/bundle.sh", "--build", BUILD, "-o", cls.archive])

    def test_same_bytes_twice(self):
        second = self.folder / "second.tar.gz"
        said([SOURCE / "cluster/bundle.sh", "--build", BUILD, "-o", second])
        self.assertEqual(self.archive.read_bytes(), second.read_bytes())

    def test_it_says_what_it_holds(self):
        for library in ("libdnnl.so.", "libmpi.so.", "libprotobuf.so.", "libstdc++.so.6"):
            self.assertIn(library, self.report)
        self.assertRegex(self.report, r"libc: 2\.\d+ or newer\n")
        self.assertNotRegex(self.report, r"  libc\.so|  ld-linux")
        listing = said(["tar", "tzf", self.archive]).splitlines()
        self.assertEqual({pathlib.PurePath(name).parts[0] for name in listing},
                         {re.match("[^/]+", listing[0])[0]})

    def test_wrong_use(self):
        for words, expected in ((["--fast"], "unknown argument"), (["-o"], "needs a value"),
                                (["--build", self.folder], "no program peal")):
            done = subprocess.run([SOURCE / "cluster/bundle.sh", *words], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn(expected, done.stderr)

    def bare_system(self):
        root = self.folder / "bare"
        for folder in ("bin", "lib/x86_64-linux-gnu", "lib64", "proc", "dev", "tmp", "etc", "opt",
                       "root", "sys", DATA.relative_to("/")):
            (root / folder).mkdir(parents=True)
        shutil.copy("/lib64/ld-linux-x86-64.so.2", root / "lib64")
        libraries = {pathlib.Path("/lib/x86_64-linux-gnu", name) for name in LIBC}
        for program, source in PROGRAMS.items():
            shutil.copy(shutil.which(source), root / program.lstrip("/"))
            libraries |= {pathlib.Path(path) for path in re.findall(r"=> (/\S+)", said(["ldd", source]))}
        for library in libraries:
            shutil.copy(library, root / "lib/x86_64-linux-gnu")
        for file in DATA.glob("*.gz"):
            shutil.copy(file, root / DATA.relative_to("/"))
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        said(["tar", "xf", self.archive, "-C", root / "opt"])
        return root, next((root / "opt").iterdir())

    def in_chroot(self, root, command, user="0:0"):
        """In namespaces of its own: without a network, and what is mounted and started ends with it."""
        script = ('mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && '
                  'mount --rbind /sys "$0/sys" && mount -t tmpfs tmpfs "$0/tmp" && '
                  'ip link set lo up && exec chroot --userspec "$2" "$0" /bin/sh -c "$1"')
        return said([*AS_ROOT, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "unshare", "--mount",
                     "--pid", "--net", "--fork", "--kill-child", "sh", "-c", script, root,
                     f"exec 2>&1\n{command}", user])

    def test_the_main_job_in_a_bare_chroot(self):
        root, bundle = self.bare_system()
        moved = root / "srv" / "a folder"
        moved.parent.mkdir()
        bundle.rename(moved)
        peal = "'/srv/a folder/peal'"
        self.assertIn("no libraries of Peal's", self.in_chroot(
            root, "ls /lib/x86_64-linux-gnu | while read l; do case $l in libmpi* | libdnnl* | "
                  "libprotobuf* | libstdc*) exit 1 ;; esac; done && echo \"no libraries of Peal's\""))
        # As a user without a name or a HOME: PMIx would crash.
        self.assertIn("2 ranks (host)", self.in_chroot(
            root, f"export PATH=/bin; cd '/srv/a folder' && {peal} launch -n 2 {JOB} --set "
                  "train.max_steps=1 --set eval.every_epochs=0 --set run.directory=/tmp/run", "1234:1234"))
        sets = f"--set train.max_steps={STEPS} --set eval.every_epochs=0 --set run.directory=/tmp/run"
        trained = self.in_chroot(
            root, f"export PATH=/bin; cd '/srv/a folder' && {peal} launch -n 2 {JOB} {sets} && "
                  f"{peal} inspect --hash /tmp/run")
        self.assertIn("2 ranks (host)", trained)
        self.assertTrue(trained.startswith("peal "), trained)  # no word of MPI's before it
        here = self.folder / "here"
        said([BUILD / "peal", "train", SOURCE / JOB, "--set", f"train.max_steps={STEPS}", "--set",
              "eval.every_epochs=0", "--set", f"run.directory={here}"])
        own = said([BUILD / "peal", "inspect", "--hash", here]).strip()
        self.assertRegex(own, "^[0-9a-f]{16}$")
        self.assertEqual(trained.splitlines()[-1], own)


if __name__ == "__main__":
    unittest.main()
