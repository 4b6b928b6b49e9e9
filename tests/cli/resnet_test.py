"""ResNet on real pictures: the same bits on any number of ranks, and an evaluation of them."""
import unittest

from peal_cli import DATA, PealTest, run

JOB = """
data {{
  train {{ cifar {{ path: "{data}/cifar10/data_first4000.bin.gz" end: 160 }} }}
  test {{ cifar {{ path: "{data}/cifar10/data_first4000.bin.gz" begin: 3200 end: 3250 }} }}
  preprocess {{ random_crop {{}} }}
  preprocess {{ random_flip {{}} }}
  preprocess {{ standardize {{ by: GIVEN mean: [125.3, 123.0, 113.9] std: [63.0, 62.1, 66.7] }} }}
}}
model {{ resnet {{ stem: {stem} block: {block} blocks: [1, 1] filters: 16 height: 32 width: 32
                  classes: 10 }} }}
optimizer {{ sgd {{ learning_rate: 0.05 momentum: 0.9 nesterov: true weight_decay: 0.0005 }} }}
train {{ epochs: 2 global_batch: 64 seed: 3 }}
parallel {{ virtual_ranks: 4 }}
run {{ directory: "{run}" }}
"""


class ResNet(PealTest):
    def check(self, stem, block):
        found = {}
        for ranks in (0, 1, 2, 4):
            folder = self.folder / f"{stem}-{ranks}"
            job = self.folder / "resnet.textproto"
            job.write_text(JOB.format(data=DATA, run=folder, stem=stem, block=block))
            self.train(job, ranks)
            last = [m for m in self.metrics(folder) if "test_loss" in m][-1]
            found[ranks] = (self.hash(folder), last["test_loss"], last["test_accuracy"])
            result = run(["eval", folder, job], ranks)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(f"test_accuracy {last['test_accuracy']}", result.stdout)
        self.assertEqual(len(set(found.values())), 1, found)

    def test_basic_blocks_give_the_same_bits_on_any_number_of_ranks(self):
        self.check("CIFAR", "BASIC")

    def test_bottlenecks_give_the_same_bits_on_any_number_of_ranks(self):
        self.check("IMAGENET", "BOTTLENECK")


if __name__ == "__main__":
    unittest.main()
