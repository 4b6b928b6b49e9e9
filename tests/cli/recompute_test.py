"""train.recompute through the program: the bits of the run without, in less memory, on any number of
ranks and when a run goes on with the other setting."""
import json
import re
import unittest

from peal_cli import DATA, PealTest, run, run_failing

INPUT = 2
BLOCKS = ["train.recompute=BLOCKS"]
COMMON = """
train {{ epochs: 1 global_batch: 16 seed: 3 clip_norm: 1 }}
parallel {{ virtual_ranks: 2 bucket_size: "16K" }}
eval {{ batch: 8 }}
run {{ directory: "{run}" log_every_steps: 2 }}
"""
TEXT = 'path: "{data}/tinyshakespeare/input.txt" tokenizer: CHARACTERS'
# GPT-2 small and ResNet-18 in all but their width.
GPT = """
data {{
  train {{ tokens {{ %s end: 0.005 }} }}
  test {{ tokens {{ %s begin: 0.998 }} }}
}}
model {{ gpt {{ vocabulary: 65 context: 48 layers: 12 heads: 12 width: 48 dropout: 0.1 }} }}
optimizer {{ adamw {{ learning_rate: 0.003 }} }}
""" % (TEXT, TEXT) + COMMON
RESNET = """
data {{
  train {{ cifar {{ path: "{data}/cifar10/data_first4000.bin.gz" end: 88 }} }}
  test {{ cifar {{ path: "{data}/cifar10/data_first4000.bin.gz" begin: 3200 end: 3232 }} }}
  preprocess {{ random_crop {{}} }}
  preprocess {{ standardize {{ by: GIVEN mean: [125.3, 123.0, 113.9] std: [63.0, 62.1, 66.7] }} }}
}}
model {{ resnet {{ depth: 18 stem: CIFAR filters: 8 height: 32 width: 32 classes: 10 }} }}
optimizer {{ sgd {{ learning_rate: 0.05 momentum: 0.9 }} }}
""" + COMMON


def bytes_of(text):
    """What is said, and how far rounding may have moved it."""
    number, unit = text.split()
    unit = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
    decimals = len(number.partition(".")[2])
    return float(number) * unit, 0.5 * unit / 10**decimals


class Recompute(PealTest):
    def write(self, text):
        job = self.folder / "job.textproto"
        job.write_text(text.format(data=DATA, run=self.folder / "run"))
        return job

    def trained(self, job, name, ranks, overrides=()):
        folder = self.folder / name
        said = self.train(job, ranks, [f"run.directory={folder}", *overrides])
        return self.hash(folder), said

    def check(self, text):
        job = self.write(text)
        straight, said = self.trained(job, "straight", 0, ["parallel.threads=1"])
        losses = self.losses("straight")
        for ranks in (0, 1, 2):
            name = f"again-{ranks}"
            found, told = self.trained(job, name, ranks, ["parallel.threads=1", *BLOCKS])
            self.assertEqual(found, straight, ranks)
            self.assertEqual(self.losses(name), losses)
            self.check_memory(said, told)
        # A run goes on with the other setting.
        for first, then in ((BLOCKS, []), ([], BLOCKS)):
            name = f"parts-{len(first)}"
            self.trained(job, name, 1, [*first, "train.max_steps=2"])
            self.assertEqual(self.trained(job, name, 2, then)[0], straight, first)

    def losses(self, name):
        return [(m["step"], m["loss"]) for m in self.metrics(self.folder / name) if "loss" in m]

    # What is announced is what the plan without announces, less the saving.
    def check_memory(self, without, told):
        size = r"([\d.]+ [KMG]?i?B)"
        plain = re.search(f"activations {size}, scratch", without)
        less = re.search(f"activations {size} \\(train.recompute saves {size}\\), scratch", told)
        self.assertTrue(plain and less, without + told)
        said = [bytes_of(text) for text in (plain[1], less[1], less[2])]
        kept, now, saved = (size for size, _ in said)
        self.assertAlmostEqual(now + saved, kept, delta=1.01 * sum(rounding for _, rounding in said))
        self.assertGreater(saved, kept / 3)

    def test_gpt(self):
        self.check(GPT)

    def test_resnet(self):
        self.check(RESNET)

    def test_bench(self):
        job = self.write(GPT)
        line = {}
        for name, more in (("NONE", []), ("BLOCKS", BLOCKS)):
            overrides = sum((["--set", o] for o in ["parallel.threads=1", *more]), [])
            done = run(["bench", "train", job, "--json", "--steps", 2, "--warmup", 1, *overrides])
            self.assertEqual(done.returncode, 0, done.stderr)
            line[name] = json.loads(done.stdout)
            self.assertEqual(line[name]["recompute"], name)
        self.assertLess(line["BLOCKS"]["activation_bytes"], 0.67 * line["NONE"]["activation_bytes"])
        self.assertEqual(line["NONE"]["planned_bytes"] - line["BLOCKS"]["planned_bytes"],
                         line["NONE"]["activation_bytes"] - line["BLOCKS"]["activation_bytes"])

    def test_a_model_without_blocks_is_refused(self):
        job = self.job()
        for command in (["train", job], ["bench", "train", job], ["bench", "overlap", job]):
            with self.subTest(command=command[:-1]):
                done, codes = run_failing([*command, "--set", *BLOCKS], 2)
                self.assertEqual(codes, [INPUT] * 2, done.stdout + done.stderr)
                for word in ("train.recompute", "gpt or resnet", "cnn has none"):
                    self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
