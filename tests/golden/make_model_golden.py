#!/usr/bin/env python3
"""Writes models.bin: small configurations of the models of models/, built once more from PyTorch's
own layers. For each: inputs, weights, the first loss, logits, gradients, and batch norm's running
averages after one step. Also resnet.safetensors, a ResNet as PyTorch saves it. Needs PyTorch; computed in float64, stored as float32.

    python3 tests/golden/make_model_golden.py
"""

import os
from collections import OrderedDict

import torch
from torch import nn

from golden_file import GoldenFile
from resnet import ResNet
from safetensors_file import save

torch.manual_seed(4)
torch.set_default_dtype(torch.float64)
HERE = os.path.dirname(os.path.abspath(__file__))
FILE = GoldenFile(os.path.join(HERE, "models.bin"))


def write(name, model, x, labels, weight, loss_of):
    """model: a module, or its layers by name; loss_of(logits, labels) gives one loss a record."""
    if isinstance(model, dict):
        model = nn.Sequential(OrderedDict(model))
    x = x.float().double() if x.is_floating_point() else x
    for parameter in model.parameters():
        if parameter.dim() == 1:  # so that constant first values are not checked alone
            parameter.data += torch.linspace(-0.25, 0.25, len(parameter))
        parameter.data = parameter.data.float().double()
    for tensor, value in {"x": x, "labels": labels, "weight": weight}.items():
        FILE.write(f"{name}/{tensor}", value)
    logits = model(x)
    loss = (loss_of(logits, labels) * weight).sum()
    (loss / weight.sum()).backward()
    FILE.write(f"{name}/loss", loss.reshape(1))
    FILE.write(f"{name}/logits", logits)
    for parameter, value in model.named_parameters():
        FILE.write(f"{name}/parameter/{parameter}", value)
        FILE.write(f"{name}/gradient/{parameter}", value.grad)
    for state, value in model.named_buffers():
        if not state.endswith("num_batches_tracked"):
            FILE.write(f"{name}/state/{state}", value)


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
basic, pictures = ResNet("basic", [1, 2], 16, "cifar", 4), torch.randn(4, 3, 8, 8).float().double()
write("resnet_basic", basic, pictures, classes, ones, cross_entropy)
write("resnet_bottleneck", ResNet("bottleneck", [1, 1], 4, "imagenet", 4), torch.randn(4, 3, 32, 32),
      classes, ones, cross_entropy)

# The losses of ten steps from the weights of resnet_basic, on its records.
optimizer = torch.optim.SGD(basic.parameters(), 0.02, momentum=0.9, nesterov=True,
                            weight_decay=5e-4)
losses = []
for _ in range(10):
    optimizer.zero_grad()
    losses.append(cross_entropy(basic(pictures), classes).mean())
    losses[-1].backward()
    optimizer.step()
FILE.write("resnet_basic/losses", torch.stack(losses))

# A model as PyTorch saves it, after some steps of training, and the logits that it then gives.
torch.manual_seed(5)
model = ResNet("bottleneck", [1, 1], 8, "cifar", 4)
model.fc.weight.data *= 10  # so that logits tell the records apart
optimizer = torch.optim.SGD(model.parameters(), 0.05)
for _ in range(3):
    optimizer.zero_grad()
    cross_entropy(model(torch.randn(8, 3, 8, 8)), torch.randint(0, 4, (8,))).mean().backward()
    optimizer.step()
model = model.float()
save(os.path.join(HERE, "resnet.safetensors"), model.state_dict())
x = torch.randn(4, 3, 8, 8).float()
FILE.write("resnet_saved/x", x)
FILE.write("resnet_saved/logits", model.double().eval()(x.double()))


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
