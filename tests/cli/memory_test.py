"""The memory that is announced before step 1 is the memory that is used."""
import json
import re
import unittest

from peal_cli import PealTest, run


class Memory(PealTest):
    def resident(self, job, overrides):
        arguments = ["bench", "train", job, "--json", "--steps", "3", "--warmup", "1"]
        result = run(arguments + sum((["--set", o] for o in overrides), []))
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_announced_is_used(self):
        # Large enough that code and libraries hide in ten percent; the base is a tiny model's run.
        csv = self.folder / "table.csv"
        csv.write_text("a,b,class\n" + "1,2,0\n2,1,1\n" * 64)
        job = self.folder / "wide.textproto"
        job.write_text(f'data {{ train {{ csv {{ path: "{csv}" label_column: "class" }} }} }}\n'
                       "model { mlp { inputs: 2 } }\noptimizer { adam {} }\n"
                       f'train {{ global_batch: 64 }}\nrun {{ directory: "{self.folder}/run" }}\n')
        small = self.resident(job, ["model.mlp.hidden=[8]"])
        wide = ["model.mlp.hidden=[4096, 4096]"]
        large = self.resident(job, wide)
        used = large["peak_rss_bytes"] - small["peak_rss_bytes"]
        planned = large["planned_bytes"] - small["planned_bytes"]
        self.assertGreater(planned, 200 << 20)
        self.assertAlmostEqual(used / planned, 1, delta=0.1)

        said = self.train(job, 0, ["train.max_steps=1", *wide])
        line = next(l for l in said.splitlines() if l.startswith("memory of a rank"))
        for part in ("parameters", "gradients", "optimizer", "activations", "together"):
            self.assertRegex(line, rf"{part} [0-9.]+ [KMG]?i?B")
        together = float(re.search(r"together ([0-9.]+) MiB", line)[1]) * (1 << 20)
        self.assertAlmostEqual(together / large["planned_bytes"], 1, delta=0.02)


if __name__ == "__main__":
    unittest.main()
