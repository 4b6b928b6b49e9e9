"""The examples reach what the README says, from the job files as they are."""
import json
import unittest

from peal_cli import DATA, SOURCE, PealTest, run


class Accuracy(PealTest):
    def accuracy(self, example, overrides=()):
        job = SOURCE / "examples" / example
        arguments = [f"run.directory={self.folder}/run", *overrides]
        self.train(job, 2, arguments, timeout=800)
        steps = sum((["--set", a] for a in arguments), [])
        result = run(["eval", self.folder / "run", job, "--json", *steps])
        self.assertEqual(result.returncode, 0, result.stderr)
        accuracy = json.loads(result.stdout)["test_accuracy"]
        print(f"{example}: test accuracy {accuracy}")
        return accuracy

    def test_fashion_mnist(self):
        text = (SOURCE / "examples/fashion_mnist_cnn.textproto").read_text()
        self.assertIn("epochs: 6", text)
        self.assertGreaterEqual(self.accuracy("fashion_mnist_cnn.textproto"), 0.91)

    def test_mnist(self):
        mnist = DATA / "mnist"
        files = [f"data.{part}.idx.{kind}={mnist}/{prefix}-{name}-ubyte.gz"
                 for part, prefix in (("train", "train"), ("test", "t10k"))
                 for kind, name in (("images", "images-idx3"), ("labels", "labels-idx1"))]
        self.assertGreaterEqual(self.accuracy("mnist_cnn.textproto", files), 0.988)

    def test_hill_valley(self):
        folder = DATA / "hill_valley"
        files = [f"data.{part}.csv.path={folder}/Hill_Valley_with_noise_{name}.data"
                 for part, name in (("train", "Training"), ("test", "Testing"))]
        self.assertGreaterEqual(self.accuracy("hill_valley_mlp.textproto", files), 0.97)


if __name__ == "__main__":
    unittest.main()
