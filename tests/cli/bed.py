"""The test bed of cluster/testbed.sh, for tests that need hosts."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from peal_cli import SOURCE, PealTest

TESTBED = [*([] if os.geteuid() == 0 else ["sudo", "-n", "--preserve-env=PEAL_TESTBED"]),
           str(SOURCE / "cluster/testbed.sh")]


def testbed(*words, timeout=120, **options):
    return subprocess.run([*TESTBED, *map(str, words)], capture_output=True, text=True,
                          timeout=timeout, **options)


def traces():
    """What a bed could leave behind in the namespaces of this machine."""
    links = pathlib.Path("/sys/class/net").iterdir()
    mounts = re.findall(r" (\S*testbed\S*) ", pathlib.Path("/proc/self/mountinfo").read_text())
    return sorted(link.name for link in links), mounts


class BedTest(PealTest):
    """A bed for all tests of the class, and a folder for each test that its hosts see.
    UP: what `testbed.sh up` is told, beside that."""
    UP = ()

    @classmethod
    def setUpClass(cls):
        cls.before = traces()
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="peal-bed-"))
        cls.addClassCleanup(shutil.rmtree, cls.shared, ignore_errors=True)
        os.environ["PEAL_TESTBED"] = str(cls.shared / "testbed")
        up = testbed("up", *cls.UP, "--share", cls.shared)
        cls.addClassCleanup(testbed, "down")
        if up.returncode != 0:
            raise AssertionError("no test bed (it needs root, and cluster/install_deps.sh --tests): "
                                 + up.stderr)

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.shared))
