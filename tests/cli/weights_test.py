"""model.weights: a run begins with the weights of a file, on any number of ranks, and needs the file
no more; `peal eval` measures it without a run."""
import json
import struct
import unittest

from peal_cli import DATA, PealTest, run

STILL = ["optimizer.adam.learning_rate=0", "train.max_steps=2"]


def convert(source, target, dtype, code, extra=None):
    """Copies a safetensors file of f32 as another dtype; `extra`: one more tensor, i64."""
    data = source.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, out, bytes_out = json.loads(data[8:8 + size]), {}, b""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = struct.unpack(f"<{(end - begin) // 4}f", data[8 + size + begin:8 + size + end])
        packed = struct.pack(f"<{len(values)}{code}", *values)
        out[name] = {"dtype": dtype, "shape": entry["shape"],
                     "data_offsets": [len(bytes_out), len(bytes_out) + len(packed)]}
        bytes_out += packed
    if extra:
        out[extra] = {"dtype": "I64", "shape": [],
                      "data_offsets": [len(bytes_out), len(bytes_out) + 8]}
        bytes_out += bytes(8)
    text = json.dumps(out).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + bytes_out)


class Weights(PealTest):
    def first_run(self, *overrides):
        """A trained model; returns its file of weights."""
        self.train(self.job(), overrides=["train.max_steps=4", *overrides])
        return self.folder / "run/checkpoints/step-000000004/weights.safetensors"

    def test_a_run_begins_with_them_on_any_number_of_ranks(self):
        weights = self.first_run()
        doubles = self.folder / "doubles.safetensors"
        convert(weights, doubles, "F64", "d", extra="norm.num_batches_tracked")
        found = {self.hash(self.folder / "run")}
        for n, file in ((0, weights), (1, doubles), (2, doubles), (4, weights)):
            other = self.folder / f"other-{n}"
            said = self.train(self.job(), n, [f"run.directory={other}", f"model.weights={file}",
                                              "train.seed=9", *STILL])
            self.assertIn(f"weights from {file}", said)
            self.assertIn(f'weights: "{file}"', (other / "job.textproto").read_text())
            found.add(self.hash(other))
        self.assertEqual(len(found), 1, found)

    def test_a_run_that_goes_on_does_not_need_them(self):
        weights = self.first_run()
        file = self.folder / "start.safetensors"
        convert(weights, file, "F32", "f")
        other = f"run.directory={self.folder / 'other'}"
        self.train(self.job(), overrides=[other, f"model.weights={file}", "train.max_steps=2"])
        file.unlink()
        said = self.train(self.job(), 2, [other, f"model.weights={file}", "train.max_steps=3"])
        self.assertIn(f"{file} is not read", said)
        self.train(self.job(), overrides=[other, "train.max_steps=4"])
        straight = self.folder / "straight"
        self.train(self.job(), overrides=[f"run.directory={straight}", f"model.weights={weights}",
                                          "train.max_steps=4"])
        self.assertEqual(self.hash(straight), self.hash(self.folder / "other"))

    def test_eval_measures_them_without_a_run(self):
        weights = self.first_run("model.cnn.batch_norm=true")
        job = self.job()
        settings = ["model.cnn.batch_norm=true", "data.test.limit=300",
                    f"data.test.idx.images={DATA}/mnist/t10k-images-idx3-ubyte.gz",
                    f"data.test.idx.labels={DATA}/mnist/t10k-labels-idx1-ubyte.gz"]
        settings = [word for setting in settings for word in ("--set", setting)]
        halves = self.folder / "halves.safetensors"
        convert(weights, halves, "F16", "e", extra="norm.num_batches_tracked")
        results = []
        for arguments in ([self.folder / "run", job], [weights, job], [halves, job],
                          [job, "--set", f"model.weights={weights}"]):
            result = run(["eval", *arguments, "--json", *settings])
            self.assertEqual(result.returncode, 0, result.stderr)
            results.append(json.loads(result.stdout))
        metrics = [(r["test_loss"], r["test_accuracy"]) for r in results]
        self.assertEqual(metrics[0], metrics[1])
        self.assertEqual(metrics[0], metrics[3])
        self.assertAlmostEqual(metrics[0][0], metrics[2][0], delta=1e-3)
        self.assertNotEqual(metrics[0][0], metrics[2][0])
        result = run(["eval", job, *settings])
        self.assertEqual(result.returncode, 2)
        self.assertIn("model.weights: the job names none", result.stderr)


if __name__ == "__main__":
    unittest.main()
