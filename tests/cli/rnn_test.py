"""A recurrent model: the same bits at any rank count, and after a stop."""
import unittest

from peal_cli import DATA, PealTest

JOB = """
data {{
  train {{ idx {{ images: "{data}/mnist/t10k-images-idx3-ubyte.gz"
                labels: "{data}/mnist/t10k-labels-idx1-ubyte.gz" }} limit: 300 }}
  preprocess {{ scale {{}} }}
}}
model {{ rnn {{ cell: LSTM hidden: 16 layers: 2 dropout: 0.25 }} }}
optimizer {{ adam {{ learning_rate: 0.002 }} }}
train {{ epochs: 2 global_batch: 64 seed: 3 }}
parallel {{ virtual_ranks: 4 }}
run {{ directory: "{run}" log_every_steps: 5 }}
"""


class Recurrent(PealTest):
    def hashes(self, overrides, ranks=(1, 2, 4)):
        job = self.folder / "job.textproto"
        job.write_text(JOB.format(data=DATA, run=self.folder / "run"))
        found = {}
        for n in ranks:
            run = self.folder / f"run-{n}"
            self.train(job, n, [f"run.directory={run}", *overrides], ["--fresh"])
            found[n] = self.hash(run)
        return found

    def test_every_cell_has_one_hash(self):
        other = set()
        for cell in ("LSTM", "GRU", "TANH"):
            found = self.hashes([f"model.rnn.cell={cell}", "model.rnn.bidirectional=true"])
            self.assertEqual(len(set(found.values())), 1, (cell, found))
            other |= set(found.values())
        self.assertEqual(len(other), 3)

    def test_three_ranks_of_four_virtual_ones(self):
        found = self.hashes([], ranks=(0, 3))
        self.assertEqual(len(set(found.values())), 1, found)


if __name__ == "__main__":
    unittest.main()
