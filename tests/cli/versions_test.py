"""Ranks of another version of Peal or oneDNN are named before the first step, exit code 4."""
import os
import pathlib
import subprocess
import unittest

from peal_cli import MPI_ENVIRONMENT, PEAL, PealTest, run

BUILD = pathlib.Path(PEAL).parent
OTHER = os.environ.get("PEAL_OTHER", str(BUILD / "other_peal"))
OTHER_ONEDNN = os.environ.get("PEAL_OTHER_ONEDNN", str(BUILD / "tests" / "libother_onednn.so"))
NUMERIC = 4


class Versions(PealTest):
    def mpirun(self, job, *last):
        """Two ranks of this program, and a third one."""
        done = subprocess.run(["mpirun", "-np", "2", PEAL, "train", job, ":", "-np", "1", *last,
                               "train", job], capture_output=True, text=True, timeout=60,
                              env=MPI_ENVIRONMENT)
        self.assertEqual(done.returncode, NUMERIC, done.stdout + done.stderr)
        self.assertFalse((self.folder / "run" / "metrics.jsonl").exists())
        said = [line for line in done.stderr.splitlines() if line.startswith("peal: ")]
        self.assertEqual(len(said), 1, done.stderr)
        return said[0]

    def test_another_peal(self):
        self.assertRegex(self.mpirun(self.job(), OTHER),
                         r'rank 2 \(.+\): peal is "0\.0\.9 .+ but rank 0 \(.+\) has "0\.1\.')

    def test_another_onednn(self):
        said = self.mpirun(self.job(), "-x", f"LD_PRELOAD={OTHER_ONEDNN}", PEAL)
        self.assertRegex(said, r'rank 2 \(.+\): oneDNN is "9\.8\.7 \(another\)" but rank 0 \(.+\) '
                               r'has "\d+\.\d+\.\d+ ')

    def test_version_names_them_all(self):
        said = run(["--version"]).stdout
        self.assertRegex(said, r"^0\.1\.\d+ \(sources [0-9a-f]{12}, compiler .+\), oneDNN \d+\.\d+")


if __name__ == "__main__":
    unittest.main()
