#!/usr/bin/env python3
"""Writes gpt2_tokens.txt: texts and their ids under GPT-2's vocabulary as the package `tokenizers`
of Hugging Face forms them (0.23 when the file was made), from encoder.json and vocab.bpe alone. A
line has the text's bytes in hex and then its ids; the last one has "characters" in place of the text:
the ids of every character from U+0001 on that Unicode 13 had assigned, with a letter before it and a
digit behind it, as a polynomial hash.

    python3 tests/golden/make_token_golden.py FOLDER_OF_GPT2
"""

import json
import os
import sys
import unicodedata

import tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))

TEXTS = [
    "Hello world", " Hello  world ", "hello", "\n", " ", "  ", "   x", "\t\tx\r\n\r\n y", "a \n b",
    "I'm sure they've said it's John's, we'll see; he'd don't 're' 'S 'LL",
    "'s't're've'm'll'd's", "O'Neill''s ''''", "12345 67 8.9e-10 1,000,000 \u0663\u0664 x\u00b2 \u2167",
    "<|endoftext|>", "a<|endoftext|>b", "snake_case CamelCase kebab-case __init__(self, *args):",
    "def f(x):\n    return x ** 2  # comment\n\n\n\treturn\n", "http://example.org/?q=a+b&c=%20",
    "the quick brown fox jumps over the lazy dog" * 3, "antidisestablishmentarianism" * 4,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=" * 70, " " * 70, " " * 70 + "x", "\n" * 40,
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m Stra\u00dfe \u0130\u0131",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u3053\u3093\u306b\u3061\u306f \uc548\ub155\ud558\uc138\uc694",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\U0001f44d\U0001f3fd!",
    "\u00a0x\u00a0\u00a0 y\u2003z \u3000\u3000a \u2028b\u2029 \u0085c \u180ed \u200be \ufefff",
    "\x00\x01\x1b[0m\x7f \x1c\x1d\x1e\x1f x", "\u00bd\u2460\u3007 \U0001d7d9\U0001d7da",
    "``quoted'' \u201cquoted\u201d \u2018it\u2019s\u2019 \u2014 \u2026", "\ufffd\ufffd \U0010ffff\ue000",
]


def make_tokenizer(folder):
    with open(os.path.join(folder, "encoder.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)
    with open(os.path.join(folder, "vocab.bpe"), encoding="utf-8") as file:
        merges = [tuple(line.split(" ")) for line in file.read().split("\n")[1:-1]]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def hash_of(ids, value):
    for number in ids:
        value = (value * 1099511628211 + number + 1) % 2**64
    return value


def main():
    tokenizer = make_tokenizer(sys.argv[1])
    assert unicodedata.unidata_version >= "13"
    with open(os.path.join(HERE, "gpt2_tokens.txt"), "w", encoding="ascii") as file:
        for text in TEXTS:
            ids = tokenizer.encode(text).ids
            file.write(" ".join([text.encode().hex()] + [str(number) for number in ids]) + "\n")
        value = 0
        for code in range(1, 0x110000):
            if 0xd800 <= code < 0xe000:
                continue
            value = hash_of(tokenizer.encode(f"x{chr(code)}7").ids, value)
        file.write(f"characters {value}\n")


main()
