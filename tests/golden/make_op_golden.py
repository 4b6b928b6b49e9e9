#!/usr/bin/env python3
"""Writes ops.bin: for every row of tests/graph/op_rows.cpp the inputs, and PyTorch's output and
gradients of sum(output * projection). Needs PyTorch; computed in float64, stored as float32.

    python3 tests/golden/make_op_golden.py
"""

import os

import torch
import torch.nn.functional as F
from torch import nn

from golden_file import GoldenFile
from philox import dropout_mask

torch.manual_seed(20)
HERE = os.path.dirname(os.path.abspath(__file__))
FILE = GoldenFile(os.path.join(HERE, "ops.bin"))


def param(*shape, factor=1.0):
    """A tensor whose gradient is checked; rounded to f32, the value that the ops get."""
    x = torch.randn(shape, dtype=torch.float64) * factor
    return x.float().double().requires_grad_()


def constant(values):
    return torch.tensor(values, dtype=torch.float64)


def row(name, inputs, function, keep_records=None):
    """keep_records: flags of records whose output counts (the others' projection is 0)."""
    output = function(*inputs)
    projection = torch.randn(output.shape, dtype=torch.float64).float().double()
    if keep_records is not None:
        projection = projection * constant(keep_records).reshape(-1, *[1] * (output.dim() - 1))
    (output * projection).sum().backward()
    for i, x in enumerate(inputs):
        FILE.write(f"{name}/in{i}", x)
        if x.requires_grad:
            FILE.write(f"{name}/grad{i}", x.grad)
    FILE.write(f"{name}/projection", projection)
    FILE.write(f"{name}/out", output)


# Linear algebra and convolution
row("matmul", [param(3, 5), param(5, 4)], torch.matmul)
row("matmul_batched", [param(2, 3, 5), param(2, 5, 4)], torch.matmul)
row("matmul_shared", [param(2, 3, 5), param(5, 4)], torch.matmul)
row("dense", [param(5, 7), param(3, 7), param(3)], F.linear)
row("dense_no_bias", [param(5, 7), param(3, 7)], F.linear)
row("conv2d", [param(2, 3, 7, 6), param(4, 3, 3, 3), param(4)], F.conv2d)
row("conv2d_no_bias", [param(2, 1, 5, 5), param(3, 1, 2, 3)], F.conv2d)
row("conv2d_stride_padding", [param(2, 3, 7, 6), param(5, 3, 3, 3), param(5)],
    lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2)))
row("conv2d_groups", [param(2, 4, 5, 5), param(6, 2, 3, 3), param(6)],
    lambda x, w, b: F.conv2d(x, w, b, groups=2))
row("conv2d_depthwise", [param(1, 3, 5, 4), param(3, 1, 3, 3), param(3)],
    lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=3))
row("conv2d_dilation", [param(2, 2, 8, 7), param(3, 2, 3, 2), param(3)],
    lambda x, w, b: F.conv2d(x, w, b, padding=(0, 1), dilation=(2, 3)))
row("max_pool2d", [param(2, 3, 6, 7)], lambda x: F.max_pool2d(x, 2))
row("max_pool2d_padding", [param(2, 2, 7, 5)],
    lambda x: F.max_pool2d(x, 3, stride=(2, 1), padding=1))
row("avg_pool2d", [param(2, 3, 6, 5)], lambda x: F.avg_pool2d(x, 2))
row("avg_pool2d_padding", [param(2, 2, 7, 5)],
    lambda x: F.avg_pool2d(x, (3, 2), stride=(2, 1), padding=1))
row("avg_pool2d_inside", [param(2, 2, 7, 5)],
    lambda x: F.avg_pool2d(x, (3, 2), stride=(2, 1), padding=1, count_include_pad=False))
row("global_avg_pool2d", [param(2, 3, 4, 5)], lambda x: x.mean((2, 3)))

# Pointwise
row("relu", [param(3, 7)], F.relu)
row("leaky_relu", [param(3, 7)], lambda x: F.leaky_relu(x, 0.125))
row("gelu", [param(3, 7, factor=2)], F.gelu)
row("sigmoid", [param(3, 7, factor=2)], torch.sigmoid)
row("tanh", [param(3, 7)], torch.tanh)
row("add", [param(3, 5), param(3, 5)], torch.add)
row("add_broadcast", [param(2, 3, 4), param(3, 1)], torch.add)
row("mul", [param(3, 5), param(3, 5)], torch.mul)
row("mul_broadcast", [param(3, 1), param(2, 1, 4)], torch.mul)
row("square", [param(3, 5)], lambda x: x * x)
row("scale", [param(3, 5)], lambda x: x * -1.5)
# The site is that of the first op of a graph; the pass is the one of op_test.cpp.
row("dropout", [param(5, 9)], lambda x: x * torch.from_numpy(
    dropout_mask(45, 0.25, seed=7, step=3, stream=2, site=0x6F70 << 48)).reshape(5, 9))

# Shape
row("reshape", [param(2, 6)], lambda x: x.reshape(3, 4))
row("flatten", [param(2, 3, 2)], lambda x: x.flatten(1))
row("transpose", [param(2, 3, 4, 5)], lambda x: x.permute(2, 0, 3, 1))
row("concat", [param(2, 3, 2), param(2, 1, 2), param(2, 4, 2)],
    lambda *parts: torch.cat(parts, 1))
row("slice", [param(3, 6, 2)], lambda x: x[:, 1:4])

# Reductions
row("reduce_sum", [param(3, 4, 5)], lambda x: x.sum((0, 2)))
row("reduce_sum_keep", [param(3, 4, 5)], lambda x: x.sum(1, keepdim=True))
row("reduce_sum_all", [param(3, 4)], lambda x: x.sum())
row("reduce_mean", [param(3, 4, 5)], lambda x: x.mean((1, 2)))

# Normalisation
row("softmax", [param(2, 3, 7)], lambda x: F.softmax(x, -1))
row("log_softmax", [param(4, 7)], lambda x: F.log_softmax(x, -1))
row("layer_norm", [param(2, 3, 9), param(9), param(9)],
    lambda x, g, b: F.layer_norm(x, (9,), g, b))


def batch_norm(x, gamma, beta, weight):
    real = x[weight > 0]
    axes = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    mean, variance = real.mean(axes), real.var(axes, unbiased=False)
    normal = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + 1e-5)
    return normal * gamma.reshape(shape) + beta.reshape(shape)


everyone = constant([1, 1, 1, 1, 1, 1])
check = [param(6, 3), param(3), param(3)]
assert torch.allclose(batch_norm(*check, everyone),
                      F.batch_norm(check[0], None, None, *check[1:], training=True))
row("batch_norm", [*check, everyone], batch_norm)
row("batch_norm_ragged", [param(5, 3, 4, 3), param(3), param(3), constant([1, 1, 0.5, 0, 0])],
    batch_norm, keep_records=[1, 1, 1, 0, 0])

row("embedding", [torch.tensor([[4, 0, 2], [2, 2, 1]]), param(5, 4)], F.embedding)

# Losses: sums over records, the last ones padded
weight = constant([1, 1, 0.5, 1, 0])
row("softmax_cross_entropy", [param(5, 4, factor=2), torch.tensor([3, 0, 1, 1, 2]), weight],
    lambda x, t, w: (F.cross_entropy(x, t, reduction="none") * w).sum().reshape(1))
row("binary_cross_entropy", [param(5, 1, factor=3), constant([1, 0, 0.25, 1, 1]), weight],
    lambda x, t, w: (F.binary_cross_entropy_with_logits(x[:, 0], t, reduction="none") * w)
    .sum().reshape(1))
row("squared_error", [param(5, 3), param(5, 3).detach(), weight],
    lambda x, t, w: ((x - t).square().mean(1) * w).sum().reshape(1))



# Recurrent layers: y and the last states, flat, one behind the other
def recurrent(module, lengths=None, states=0):
    """A row for a module of torch.nn: x, its parameters, [lengths], [first states]."""
    batch, steps = 3, 4
    x = param(*((batch, steps) if module.batch_first else (steps, batch)), module.input_size)
    weights = [param(*p.shape, factor=0.5) for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]
    chains = module.num_layers * (2 if module.bidirectional else 1)
    first = [param(chains, batch, module.hidden_size) for _ in range(states)]

    def function(x, *rest):
        own, rest = rest[:len(names)], rest[len(names):]
        given = rest[1:] if lengths is not None else rest
        if lengths is not None:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=module.batch_first,
                                                  enforce_sorted=False)
        state = () if states == 0 else ((given[0] if states == 1 else tuple(given)),)
        y, last = torch.func.functional_call(module, dict(zip(names, own)), (x, *state))
        if lengths is not None:
            y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=module.batch_first,
                                                    total_length=steps)
        last = last if isinstance(last, tuple) else (last,)
        return torch.cat([part.reshape(-1) for part in (y, *last)])

    packed = [] if lengths is None else [torch.tensor(lengths)]
    return [x, *weights, *packed, *first], function


deep = {"num_layers": 2, "bidirectional": True, "batch_first": True}
row("rnn_tanh", *recurrent(nn.RNN(5, 6).double()))
row("rnn_relu", *recurrent(nn.RNN(5, 6, nonlinearity="relu").double()))
row("lstm", *recurrent(nn.LSTM(5, 6).double()))
row("gru", *recurrent(nn.GRU(5, 6).double()))
row("rnn_tanh_packed", *recurrent(nn.RNN(3, 4, **deep).double(), [2, 4, 1], 1))
row("lstm_packed", *recurrent(nn.LSTM(3, 4, **deep).double(), [2, 4, 1], 2))
row("gru_packed", *recurrent(nn.GRU(3, 4, **deep).double(), [2, 4, 1], 1))

# What GPT-2 needs
row("affine", [param(2, 3, 5), param(5, 4), param(4)], lambda x, w, b: x @ w + b)
row("gelu_tanh", [param(3, 7, factor=2)], lambda x: F.gelu(x, approximate="tanh"))


def attention(qkv, heads=2):
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.transpose(1, 2).flatten(-2)


row("attention", [param(2, 5, 18)], attention)
row("softmax_cross_entropy_positions",
    [param(3, 2, 4, factor=2), torch.tensor([[3, 0], [1, 1], [2, 0]]), constant([1, 0.5, 0])],
    lambda x, t, w: (F.cross_entropy(x.transpose(1, 2), t, reduction="none").mean(1) * w)
    .sum().reshape(1))
FILE.close()
