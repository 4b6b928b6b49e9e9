#!/usr/bin/env python3
"""Writes models.bin: small configurations of the models of models/, built once more from PyTorch's
own layers. For each: inputs, weights, the first loss, logits, gradients, and batch norm's running
averages after one step. Needs PyTorch; computed in float64, stored as float32.

    python3 tests/golden/make_model_golden.py
"""

import os

import torch
from torch import nn

from golden_file import GoldenFile

torch.manual_seed(4)
torch.set_default_dtype(torch.float64)
HERE = os.path.dirname(os.path.abspath(__file__))
FILE = GoldenFile(os.path.join(HERE, "models.bin"))


def write(name, layers, x, labels, weight, loss_of):
    """layers: name -> module, in order; loss_of(logits, labels) gives one loss a record."""
    x = x.float().double() if x.is_floating_point() else x
    for module in layers.values():
        for parameter in module.parameters():
            if parameter.dim() == 1:  # so that constant first values are not checked alone
                parameter.data += torch.linspace(-0.25, 0.25, len(parameter))
            parameter.data = parameter.data.float().double()
    for tensor, value in {"x": x, "labels": labels, "weight": weight}.items():
        FILE.write(f"{name}/{tensor}", value)
    logits = nn.Sequential(*layers.values())(x)
    loss = (loss_of(logits, labels) * weight).sum()
    (loss / weight.sum()).backward()
    FILE.write(f"{name}/loss", loss.reshape(1))
    FILE.write(f"{name}/logits", logits)
    for layer, module in layers.items():
        for parameter, value in module.named_parameters():
            FILE.write(f"{name}/parameter/{layer}.{parameter}", value)
            FILE.write(f"{name}/gradient/{layer}.{parameter}", value.grad)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            FILE.write(f"{name}/state/{layer}.running_mean", module.running_mean)
            FILE.write(f"{name}/state/{layer}.running_variance", module.running_var)


def cross_entropy(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def binary(logits, labels):
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")


def squared(logits, labels):
    return (logits[:, 0] - labels).square()


def cnn(batch_norm):
    layers = {"conv": nn.Conv2d(2, 3, 3)}
    if batch_norm:
        layers["norm"] = nn.BatchNorm2d(3)
    return layers | {"relu": nn.ReLU(), "pool": nn.MaxPool2d(2), "flatten": nn.Flatten(),
                     "dense1": nn.Linear(27, 5), "relu1": nn.ReLU(), "dense2": nn.Linear(5, 4)}


def mlp(inputs, widths, outputs, activation, batch_norm=False):
    layers = {}
    for i, width in enumerate(widths, 1):
        layers[f"dense{i}"] = nn.Linear(inputs, width)
        if batch_norm:
            layers[f"norm{i}"] = nn.BatchNorm1d(width)
        layers[f"activation{i}"] = activation()
        inputs = width
    layers[f"dense{len(widths) + 1}"] = nn.Linear(inputs, outputs)
    return layers


ones = torch.ones(4)
classes = torch.tensor([3, 0, 1, 2])
write("cnn", cnn(False), torch.randn(4, 2, 8, 8), classes, torch.tensor([1.0, 1, 1, 0]),
      cross_entropy)
write("cnn_batch_norm", cnn(True), torch.randn(4, 2, 8, 8), classes, ones, cross_entropy)
# The reference shape, for which the CPU fuses convolution, relu and pooling.
write("cnn_fused",
      {"conv": nn.Conv2d(1, 4, 3), "relu": nn.ReLU(), "pool": nn.MaxPool2d(2),
       "flatten": nn.Flatten(), "dense1": nn.Linear(676, 3), "relu1": nn.ReLU(),
       "dense2": nn.Linear(3, 4)},
      torch.randn(4, 1, 28, 28), classes, ones, cross_entropy)
write("mlp_binary", mlp(6, [5, 4], 1, nn.ReLU), torch.randn(4, 6), torch.tensor([1.0, 0, 0, 1]),
      torch.tensor([1.0, 1, 1, 0]), binary)
write("mlp_softmax", mlp(6, [5], 4, nn.Tanh, batch_norm=True), torch.randn(4, 6), classes, ones,
      cross_entropy)
write("mlp_squared_error", mlp(6, [5], 1, nn.GELU), torch.randn(4, 6),
      torch.tensor([1.5, -2, 0.25, 3]), ones, squared)


class LastState(nn.Module):
    """What a recurrent module returns -> the last states of its last layer, side by side."""

    def __init__(self, directions):
        super().__init__()
        self.directions = directions

    def forward(self, output):
        last = output[1][0] if isinstance(output[1], tuple) else output[1]
        return torch.cat(list(last[-self.directions:]), 1)


class Outputs(nn.Module):
    def forward(self, output):
        return output[0]


def of_positions(logits, labels):
    return nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


write("rnn_lstm",
      {"rnn": nn.LSTM(3, 6, 2, bidirectional=True, batch_first=True), "last": LastState(2),
       "dense": nn.Linear(12, 4)},
      torch.randn(4, 5, 3), classes, torch.tensor([1.0, 1, 0, 1]), cross_entropy)
write("rnn_gru",
      {"rnn": nn.GRU(3, 6, batch_first=True), "last": LastState(1), "dense": nn.Linear(6, 4)},
      torch.randn(4, 5, 3), classes, ones, cross_entropy)
write("rnn_tokens",
      {"embedding": nn.Embedding(7, 3), "rnn": nn.LSTM(3, 6, 2, batch_first=True),
       "outputs": Outputs(), "dense": nn.Linear(6, 7)},
      torch.randint(7, (4, 5)), torch.randint(7, (4, 5)), torch.tensor([1.0, 0, 1, 1]),
      of_positions)
FILE.close()
