"""GPT-2 made of PyTorch's layers, with the parameter names and layouts of Hugging Face's
GPT2LMHeadModel: what Peal's model is compared with."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Linear(nn.Module):
    """weight (in, out), as GPT-2 was first stored."""

    def __init__(self, inputs, outputs, deviation):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * deviation)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return y.reshape(*x.shape[:-1], -1)


class Attention(nn.Module):
    def __init__(self, width, heads, last_deviation):
        super().__init__()
        self.heads = heads
        self.c_attn = Linear(width, 3 * width, 0.02)
        self.c_proj = Linear(width, width, last_deviation)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for part in self.c_attn(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(-2))


class Perceptron(nn.Module):
    def __init__(self, width, last_deviation):
        super().__init__()
        self.c_fc = Linear(width, 4 * width, 0.02)
        self.c_proj = Linear(4 * width, width, last_deviation)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width, heads, last_deviation, dropout):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, last_deviation)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Perceptron(width, last_deviation)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.drop(self.attn(self.ln_1(x)))
        return x + self.drop(self.mlp(self.ln_2(x)))


class Gpt2(nn.Module):
    def __init__(self, vocabulary, context, layers, heads, width, dropout=0.0):
        super().__init__()
        last = 0.02 / math.sqrt(2 * layers)
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(vocabulary, width),
            "wpe": nn.Embedding(context, width),
            "drop": nn.Dropout(dropout),
            "h": nn.ModuleList(Block(width, heads, last, dropout) for _ in range(layers)),
            "ln_f": nn.LayerNorm(width),
        })
        for name in ("wte", "wpe"):
            nn.init.normal_(self.transformer[name].weight, std=0.02)

    def forward(self, ids):
        part = self.transformer
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = part["drop"](part["wte"](ids) + part["wpe"](positions))
        for block in part["h"]:
            x = block(x)
        return F.linear(part["ln_f"](x), part["wte"].weight)


def losses(logits, labels):
    """One a record: the mean over its positions."""
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)
