"""A GPT-2 on tinyshakespeare through the program: the same bits on any number of ranks, and text that
is learned."""
import unittest

from peal_cli import DATA, SOURCE, PealTest

JOB = """
data {{
  train {{ tokens {{ path: "{text}" tokenizer: CHARACTERS end: 0.04 }} }}
  test {{ tokens {{ path: "{text}" tokenizer: CHARACTERS begin: 0.99 }} }}
}}
model {{ gpt {{ vocabulary: 65 context: 32 layers: 2 heads: 2 width: 32 dropout: 0.1 }} }}
optimizer {{ adamw {{ learning_rate: 0.003 }} }}
train {{ epochs: 1 global_batch: 16 seed: 3 clip_norm: 1 }}
parallel {{ virtual_ranks: 4 }}
run {{ directory: "{run}" log_every_steps: 5 }}
"""


class Gpt(PealTest):
    def setUp(self):
        super().setUp()
        self.text = DATA / "tinyshakespeare/input.txt"
        self.assertTrue(self.text.exists(), f"no text at {self.text}; set PEAL_TEST_DATA")

    def job(self):
        path = self.folder / "gpt.textproto"
        path.write_text(JOB.format(text=self.text, run=self.folder / "run"))
        return path

    def test_the_same_bits_on_any_number_of_ranks(self):
        found = {}
        for ranks in (0, 1, 2, 4):
            run = self.folder / f"run-{ranks}"
            self.train(self.job(), ranks, [f"run.directory={run}"])
            found[ranks] = self.hash(run)
        self.assertEqual(len(set(found.values())), 1, found)
        losses = [line["loss"] for line in self.metrics(run) if "loss" in line]
        self.assertGreater(losses[0], 4.0)  # ln 65 = 4.17: nothing is known
        self.assertLess(losses[-1], 3.2)  # less than the letters' frequencies alone give

    def test_the_example_is_a_job(self):
        self.train(SOURCE / "examples/tinyshakespeare_gpt.textproto", 0,
                   [f'data.{part}.tokens.path=["{self.text}"]' for part in ("train", "test")] +
                   [f"run.directory={self.folder / 'example'}", "train.max_steps=2"])


if __name__ == "__main__":
    unittest.main()
