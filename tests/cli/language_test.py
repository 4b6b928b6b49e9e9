"""Language models: trained on tokens of a text, from shards and in any number of ranks with the same
bits; measured; and asked to go on with a text."""
import os
import re
import signal
import subprocess
import unittest

from peal_cli import DATA, PEAL, PealTest, run, run_failing

JOB = """
data {{
  train {{ tokens {{ path: "{data}/tinyshakespeare/input.txt" tokenizer: CHARACTERS end: 0.1 }} limit: 400 }}
  test {{ tokens {{ path: "{data}/tinyshakespeare/input.txt" tokenizer: CHARACTERS begin: 0.99 }} }}
}}
model {{ gpt {{ vocabulary: 65 context: 24 layers: 1 heads: 2 width: 16 dropout: 0 }} }}
optimizer {{ adam {{ learning_rate: 0.01 }} }}
train {{ epochs: 2 global_batch: 32 seed: 5 }}
parallel {{ virtual_ranks: 4 }}
run {{ directory: "{run}" log_every_steps: 5 }}
"""
VOCABULARY = f"{DATA}/gpt2/encoder.json", f"{DATA}/gpt2/vocab.bpe"


class Language(PealTest):
    def setUp(self):
        super().setUp()
        self.directory = self.folder / "run"
        self.path = self.folder / "job.textproto"
        self.path.write_text(JOB.format(data=DATA, run=self.directory))

    def trained(self, name, ranks=0, overrides=(), flags=()):
        folder = self.folder / name
        self.train(self.path, ranks, [f"run.directory={folder}", *overrides], flags)
        return self.hash(folder)

    def ok(self, arguments, **options):
        result = run(arguments, **options)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout

    def generate(self, *arguments, model=None, tokens=60):
        return self.ok(["generate", model or self.directory, "--prompt", "ROMEO:", "--tokens", tokens,
                        *arguments])

    def refused(self, arguments, *words, ranks=0):
        result, codes = run_failing(arguments, ranks)
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertEqual(codes, [2] * ranks)
        for word in words:
            self.assertIn(word, result.stderr)


class Training(Language):
    def test_same_bits_from_text_and_shards_at_any_rank_count(self):
        # 400 records: 12 batches of 32 and one of 16.
        straight = self.trained("straight")
        self.assertEqual(self.trained("three", 3), straight)
        shards = self.folder / "shards"
        self.ok(["shard", self.path, "--count", "5", "--out", shards, "--verify", "--local", "2"])
        there = f"data.train.shards.directory={shards}"
        self.assertEqual(self.trained("shards", 2, [there]), straight)
        # Stopped in the middle of an epoch and gone on with on another number of ranks, with
        # shuffling in windows.
        windows = [there, "data.shuffle_window_shards=2"]
        whole = self.trained("windows", 2, windows)
        self.trained("parts", 1, [*windows, "train.max_steps=9"])
        self.assertEqual(self.trained("parts", 3, windows), whole)
        self.assertNotEqual(whole, straight)

    def test_a_run_on_shards_knows_its_tokenizer(self):
        lines = self.path.read_text().splitlines(keepends=True)
        self.path.write_text("".join(line for line in lines if not line.startswith("  test")))
        shards = self.folder / "shards"
        self.ok(["shard", self.path, "--count", "2", "--out", shards])
        self.trained("run", 0, [f"data.train.shards.directory={shards}"])
        from_shards = self.generate("--temperature", "0")
        self.assertTrue(from_shards.startswith("ROMEO:"))
        self.trained("run", 0, flags=["--fresh"])
        self.assertEqual(self.generate("--temperature", "0"), from_shards)

    def test_loss_falls_and_perplexity_is_told(self):
        before = self.metrics_of("train.max_steps=1")
        after = self.metrics_of("train.epochs=30")
        self.assertLess(after["test_loss"], before["test_loss"] - 0.7)
        for metrics in before, after:
            self.assertAlmostEqual(metrics["test_perplexity"], 2.718281828459045**metrics["test_loss"],
                                   delta=1e-6 * metrics["test_perplexity"])
            self.assertNotIn("test_accuracy", metrics)
        printed = self.ok(["eval", self.directory, self.path])
        for name in "test_loss", "test_perplexity":
            found = float(re.search(f"{name} ([0-9.e+-]+)", printed).group(1))
            self.assertAlmostEqual(found, after[name], delta=1e-4 * after[name])
        # The best by perplexity is the lowest.
        best = os.readlink(self.directory / "checkpoints" / "best")
        lines = [line for line in self.metrics(self.directory) if "test_perplexity" in line]
        lowest = min(lines, key=lambda line: line["test_perplexity"])
        self.assertEqual(int(best.split("-")[1]), lowest["step"])

    def metrics_of(self, override):
        self.train(self.path, 0, [override, "checkpoint.best_metric=test_perplexity"], ["--fresh"])
        return [line for line in self.metrics(self.directory) if "test_loss" in line][-1]

    def test_wrong_jobs_are_refused_by_every_rank(self):
        train = ["train", self.path, "--set"]
        tokens = "data.train.tokens."
        self.refused([*train, "model.gpt.vocabulary=60"], "input.txt", "has token 6", "vocabulary is 60",
                     ranks=2)
        self.refused([*train, f"{tokens}length=23"], f"{tokens}length: 23", "24", ranks=2)
        self.refused([*train, "model.mlp.inputs=24"], "data.train.tokens", "language models", ranks=2)
        self.refused([*train, "data.preprocess[0].scale.factor=1"], "data.preprocess", "tokens")
        self.refused([*train, f"{tokens}tokenizer=GPT2"], f"{tokens}encoder", "is missing")
        self.refused([*train, f"{tokens}merges=x"], f"{tokens}merges", "GPT2 only")
        self.refused([*train, f"{tokens}begin=0.5"], f"{tokens}begin", "not before the end")
        self.refused([*train, f"{tokens}path=[\"/none\"]"], "/none", ranks=2)
        self.refused([*train, f"{tokens}end=0.00001"], "input.txt", "tokens; a record takes 25", ranks=2)
        short = self.folder / "short"
        self.ok(["shard", self.path, "--count", "1", "--out", short, "--set", "model.gpt.context=12"])
        self.refused([*train, f"data.train.shards.directory={short}"], "(13)", "context is 24", "(25)",
                     ranks=2)
        pictures = f"{DATA}/mnist/t10k"
        idx = f'{{images:"{pictures}-images-idx3-ubyte.gz" labels:"{pictures}-labels-idx1-ubyte.gz"}}'
        self.refused([*train, f"data.train.idx={idx}"], "a language model wants tokens", ranks=2)


class Generating(Language):
    def setUp(self):
        super().setUp()
        self.train(self.path, 0, ["train.epochs=6"])

    def test_the_same_seed_gives_the_same_text(self):
        text = self.generate("--seed", "3")
        self.assertTrue(text.startswith("ROMEO:"))
        self.assertEqual(len(text), 6 + 60 + 1)  # longer than the context of 24
        self.assertEqual(self.generate("--seed", "3"), text)
        self.assertNotEqual(self.generate("--seed", "4"), text)
        # Fewer tokens are its beginning, and it goes on from any place of it.
        prompt = self.folder / "prompt.txt"
        prompt.write_text(text[:40])
        self.assertEqual(self.ok(["generate", self.directory, "--prompt-file", prompt, "--tokens", "26",
                                  "--seed", "3"]), text)
        self.assertEqual(self.generate("--seed", "3", tokens=10), text[:16] + "\n")

    def test_greedy_in_three_ways(self):
        greedy = self.generate("--temperature", "0")
        self.assertEqual(self.generate("--top-k", "1", "--seed", "9"), greedy)
        self.assertEqual(self.generate("--top-p", "1e-9", "--seed", "8"), greedy)
        self.assertNotEqual(self.generate("--seed", "9"), greedy)
        self.assertNotEqual(self.generate("--top-p", "0.9", "--seed", "9"), greedy)

    def test_a_checkpoint_and_a_weights_file_do_as_well(self):
        text = self.generate()
        newest = sorted((self.directory / "checkpoints").glob("step-*"))[-1]
        self.assertEqual(self.generate(model=newest), text)
        weights = self.folder / "model.safetensors"
        weights.write_bytes((newest / "weights.safetensors").read_bytes())
        self.assertEqual(self.generate("--job", self.path, model=weights), text)
        self.refused(["generate", weights, "--prompt", "x"], "give --job FILE")
        named = ["--tokenizer", "CHARACTERS", "--text", f"{DATA}/tinyshakespeare/input.txt"]
        self.assertEqual(self.generate(*named), text)

    def test_what_is_wrong_is_named(self):
        generate = ["generate", self.directory]
        self.refused([*generate, "--prompt", ""], "--prompt: is empty")
        empty = self.folder / "empty.txt"
        empty.write_text("")
        self.refused([*generate, "--prompt-file", empty], "empty.txt: is empty")
        self.refused(generate, "--prompt")
        self.refused([*generate, "--prompt", "x", "--prompt-file", empty], "--prompt")
        self.refused([*generate, "--prompt", "2 \u20ac"], "characters of", "U+0032")
        self.refused([*generate, "--prompt", "x", "--tokenizer", "BYTES"],
                     "token 120", "vocabulary is 65")
        self.refused([*generate, "--prompt", "x", "--tokenizer", "GPT2"], "--encoder and --merges")
        self.refused([*generate, "--prompt", "x", "--tokenizer", "CHARACTERS"], "--text")
        self.refused([*generate, "--prompt", "x", "--temperature", "-1"], "--temperature")
        self.refused([*generate, "--prompt", "x", "--top-p", "0"], "--top-p")
        self.refused(["generate", self.folder, "--prompt", "x"], str(self.folder))
        self.train(self.job(limit=64, epochs=1, run_name="pictures"))
        self.refused(["generate", self.folder / "pictures", "--prompt", "x"], "language model")

    def test_ctrl_c_ends_the_text(self):
        process = subprocess.Popen([PEAL, "generate", self.directory, "--prompt", "A", "--tokens", "1000000000"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(process.stdout.read(20)[:1], b"A")  # it streams
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, errors)
        self.assertEqual(rest[-1:], b"\n")


class Gpt2(Language):
    def test_it_stops_at_the_end_of_the_text(self):
        for number in range(60):
            (self.folder / f"text-{number:02}.txt").write_text("The bells ring.")
        self.path.write_text(f"""
            data {{ train {{ tokens {{ path: "{self.folder}/text-*.txt" tokenizer: GPT2
                                   encoder: "{VOCABULARY[0]}" merges: "{VOCABULARY[1]}" stride: 1 }} }} }}
            model {{ gpt {{ vocabulary: 50257 context: 8 layers: 1 heads: 1 width: 8 dropout: 0 }} }}
            optimizer {{ adam {{ learning_rate: 0.05 }} }}
            train {{ epochs: 6 global_batch: 16 }}
            run {{ directory: "{self.directory}" }}""")
        self.train(self.path)
        said = self.ok(["generate", self.directory, "--prompt", "The", "--temperature", "0"])
        self.assertEqual(said, "The bells ring.\n")


if __name__ == "__main__":
    unittest.main()
