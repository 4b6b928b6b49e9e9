#!/usr/bin/env python3
"""The lines of tests/bench/cuda_bench.cpp with PyTorch's kernels: the same shapes, f32 without TF32,
and bf16 where a line says so.

usage: torch_kernels.py [--only TEXT] [--beside FILE]
  --only TEXT    lines whose name holds TEXT
  --beside FILE  what cuda_bench printed: each line then has Peal's time too, and how many times
                 faster it is

Each line is the median of 21 calls by CUDA's events. Bytes and operations are those that
cuda_bench counts, so that the rates compare. Needs a GPU and PyTorch; exit status 77 without."""
import argparse
import re
import statistics
import sys

CALLS, WARM_UP = 21, 3
LARGE = 64 << 20


def measured(torch, call):
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(CALLS)]
    for begin, end in marks:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in marks)


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


class Lines:
    """(name, shape) -> (what to call, bytes or operations, whether these are operations)."""

    def __init__(self, torch):
        self.torch = torch
        self.aten = torch.ops.aten
        self.all = {}
        generator = torch.Generator(device="cuda").manual_seed(1)
        self.large = [torch.rand(LARGE, device="cuda", generator=generator) * 2 - 1
                      for _ in range(4)]
        for part in (self.pointwise, self.shapes, self.sums, self.rows, self.batch_norm,
                     self.losses, self.optimizers, self.pooling, self.convolution, self.products,
                     self.halves, self.batch_norm_of_halves, self.pooling_of_halves,
                     self.convolution_of_halves, self.products_of_halves,
                     self.attention):
            part()

    def add(self, name, shape, tensors, call):
        self.all[name, tuple(shape)] = (call, bytes_of(tensors), False)

    def add_flops(self, name, shape, flops, call):
        self.all[name, tuple(shape)] = (call, flops, True)

    def view(self, i, *shape):
        count = 1
        for dim in shape:
            count *= dim
        return self.large[i][:count].view(*shape)

    def new(self, *shape):
        return self.torch.rand(*shape, device="cuda")

    def pointwise(self):
        torch, aten = self.torch, self.aten
        x, y, z = self.large[:3]
        n = (LARGE,)
        self.add("copy", n, [x, y], lambda: y.copy_(x))
        self.add("fill", n, [z], lambda: z.fill_(0.5))
        self.add("scale", n, [x, z], lambda: torch.mul(x, 1.5, out=z))
        self.add("accumulate", n, [x, z, z], lambda: z.add_(x))
        self.add("subtract_scaled", n, [x, z, z], lambda: z.sub_(x, alpha=0.5))
        self.add("binary add", n, [x, y, z], lambda: torch.add(x, y, out=z))
        matrix, row = (LARGE // 1024, 1024), self.new(1024)
        self.add("binary add row", matrix, [x, z, row],
                 lambda: torch.add(self.view(0, *matrix), row, out=self.view(2, *matrix)))
        forward = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "sigmoid": torch.sigmoid,
                   "tanh": torch.tanh}
        backward = {"relu": lambda: aten.threshold_backward(y, x, 0),
                    "gelu": lambda: aten.gelu_backward(y, x),
                    "sigmoid": lambda: aten.sigmoid_backward(y, x),
                    "tanh": lambda: aten.tanh_backward(y, x)}
        for name, call in forward.items():
            self.add(name, n, [x, z], lambda call=call: call(x))
            self.add(f"{name} backward", n, [x, y, z], backward[name])
        self.add("dropout", n, [x, z], lambda: torch.nn.functional.dropout(x, 0.5))

    def shapes(self):
        square, image, last = (8192, 8192), (64, 256, 64, 64), (64, 64, 64, 256)
        x, z = self.view(0, *square), self.view(2, *square)
        self.add("transpose", square, [x, z], lambda: z.copy_(x.t()))
        self.add("transpose 0231", image, [x, z],
                 lambda: self.view(2, *last).copy_(self.view(0, *image).permute(0, 2, 3, 1)))
        half = (8192, 4096)
        self.add("copy_box", half, [self.view(0, *half)] * 2,
                 lambda: z[:, 4096:].copy_(self.view(0, *half)))
        row = self.new(1, 8192)
        self.add("broadcast row", square, [row, z], lambda: z.copy_(row))

    def sums(self):
        matrix, image = (65536, 1024), (64, 256, 64, 64)
        x, images = self.view(0, *matrix), self.view(0, *image)
        self.add("reduce_sum rows", matrix, [x, x[0]], lambda: x.sum(0))
        self.add("reduce_sum columns", matrix, [x, x[:, 0]], lambda: x.sum(1))
        self.add("reduce_sum all", matrix, [x], lambda: x.sum())
        self.add("reduce_sum channels", image, [x], lambda: images.sum((0, 2, 3)))
        self.add("sum_squares", (LARGE,), [x], lambda: self.torch.linalg.vector_norm(self.large[0]))

    def rows(self):
        torch, aten = self.torch, self.aten
        shape = (65536, 1024)
        x, y, dy = (self.view(i, *shape) for i in range(3))
        self.add("softmax", shape, [x, y], lambda: torch.softmax(x, 1))
        self.add("softmax backward", shape, [y, dy, x],
                 lambda: aten._softmax_backward_data(dy, y, 1, torch.float32))
        self.add("log_softmax", shape, [x, y], lambda: torch.log_softmax(x, 1))
        self.add("log_softmax backward", shape, [y, dy, x],
                 lambda: aten._log_softmax_backward_data(dy, y, 1, torch.float32))
        gamma, beta = self.new(1024), self.new(1024)
        _, mean, rstd = torch.native_layer_norm(x, [1024], gamma, beta, 1e-5)
        self.add("layer_norm", shape, [x, y, gamma, beta, mean, rstd],
                 lambda: torch.native_layer_norm(x, [1024], gamma, beta, 1e-5))
        self.add("layer_norm backward", shape, [x, dy, x, gamma, mean, rstd, gamma, beta],
                 lambda: aten.native_layer_norm_backward(dy, x, [1024], mean, rstd, gamma, beta,
                                                         [True] * 3))

    def batch_norm(self):
        torch, aten = self.torch, self.aten
        shape = (64, 256, 64, 64)
        x, dy = self.view(0, *shape), self.view(2, *shape)
        gamma, beta, mean, variance = (self.new(256) for _ in range(4))
        self.add("batch_norm_statistics", shape, [x],
                 lambda: torch.var_mean(x, (0, 2, 3), correction=0))
        self.add("batch_norm", shape, [x, x],
                 lambda: torch.nn.functional.batch_norm(x, mean, variance, gamma, beta))
        self.add("batch_norm training", shape, [x, x, x],
                 lambda: torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True))
        _, saved_mean, saved_rstd = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.1,
                                                            1e-5)
        self.add("batch_norm backward", shape, [x, dy, x],
                 lambda: aten.native_batch_norm_backward(dy, x, gamma, None, None, saved_mean,
                                                         saved_rstd, True, 1e-5, [True] * 3))

    def losses(self):
        torch, aten = self.torch, self.aten
        shape = (65536, 1024)
        x, y = self.view(0, *shape), self.view(1, *shape)
        labels = torch.randint(0, 1024, shape[:1], device="cuda")
        self.add("softmax_cross_entropy", shape, [x, y],
                 lambda: torch.nn.functional.cross_entropy(x, labels, reduction="sum"))
        self.add("squared_error", shape, [x, y],
                 lambda: torch.nn.functional.mse_loss(x, y, reduction="sum"))
        self.add("count_correct", shape, [x], lambda: (x.argmax(1) == labels).sum())
        table = self.new(50000, 1024)
        tokens = torch.randint(0, 50000, shape[:1], device="cuda", dtype=torch.int32)
        self.add("embedding", shape, [y, y], lambda: torch.nn.functional.embedding(tokens, table))
        self.add("embedding backward", shape, [y, table],
                 lambda: aten.embedding_dense_backward(y, tokens, 50000, -1, False))

    def optimizers(self):
        torch = self.torch
        for name, words in (("SGD", {"momentum": 0.9, "fused": True}), ("Adam", {"fused": True}),
                            ("RMSprop", {"foreach": True})):
            x = torch.nn.Parameter(self.new(LARGE))
            x.grad = self.large[0]
            optimizer = getattr(torch.optim, name)([x], lr=1e-3, **words)
            tensors = {"SGD": 5, "Adam": 7, "RMSprop": 5}[name]
            self.add(name.lower(), (LARGE,), [x] * tensors, optimizer.step)

    def pooling(self):
        torch, aten = self.torch, self.aten
        shape = (64, 64, 128, 128)
        x, y = self.view(0, *shape), self.view(1, 64, 64, 64, 64)
        _, indices = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
        self.add("max_pool2d", shape, [x, y], lambda: torch.nn.functional.max_pool2d(x, 2))
        self.add("max_pool2d backward", shape, [y, x],
                 lambda: aten.max_pool2d_with_indices_backward(y, x, [2, 2], [2, 2], [0, 0], [1, 1],
                                                               False, indices))
        self.add("avg_pool2d", shape, [x, y], lambda: torch.nn.functional.avg_pool2d(x, 2))
        self.add("avg_pool2d backward", shape, [y, x],
                 lambda: aten.avg_pool2d_backward(y, x, [2, 2], [2, 2], [0, 0], False, True, None))

    def convolution(self):
        for shape, weight in (((64, 64, 56, 56), (64, 64, 3, 3)),
                              ((64, 256, 14, 14), (256, 256, 3, 3)),
                              ((256, 1, 28, 28), (32, 1, 3, 3))):
            x, w, b = self.view(0, *shape), self.new(*weight), self.new(weight[0])
            y = self.torch.nn.functional.conv2d(x, w, b, padding=1)
            flops = 2 * y.numel() * weight[1] * weight[2] * weight[3]

            def backward(mask, x=x, w=w, y=y):
                return self.aten.convolution_backward(y, x, w, [w.shape[0]], [1, 1], [1, 1], [1, 1],
                                                      False, [0, 0], 1, mask)

            self.add_flops("conv2d", shape, flops, lambda x=x, w=w, b=b:
                           self.torch.nn.functional.conv2d(x, w, b, padding=1))
            self.add_flops("conv2d backward_data", shape, flops,
                           lambda call=backward: call([True, False, False]))
            self.add_flops("conv2d backward_weights", shape, flops,
                           lambda call=backward: call([False, True, True]))

    def products(self):
        for m, n, k in ((4096, 4096, 4096), (256, 128, 5408), (8192, 1024, 1024)):
            a, c = self.view(0, m, k), self.view(2, m, n)
            nn, nt = self.view(1, k, n), self.view(1, n, k)
            self.add_flops("matmul nn", (m, n, k), 2 * m * n * k,
                           lambda a=a, b=nn, c=c: self.torch.matmul(a, b, out=c))
            self.add_flops("matmul nt", (m, n, k), 2 * m * n * k,
                           lambda a=a, b=nt, c=c: self.torch.matmul(a, b.t(), out=c))


    # ---- bf16, with the lines of cuda_bench_halves.h --------------------------------------------

    def half(self, i, *shape):
        """Of twice the elements, in the same memory."""
        count = 1
        for dim in shape:
            count *= dim
        return self.large[i].view(self.torch.bfloat16)[:count].view(*shape)

    def halves(self):
        torch, aten, n = self.torch, self.aten, 2 * LARGE
        for i in range(4):
            self.half(i, n).copy_(torch.randn(n, device="cuda", dtype=torch.bfloat16))
        x, y, z = (self.half(i, n) for i in range(3))
        gelu = {"approximate": "tanh"}
        self.add("bf16 scale", (n,), [x, z], lambda: torch.mul(x, 0.5, out=z))
        self.add("bf16 binary add", (n,), [x, y, z], lambda: torch.add(x, y, out=z))
        self.add("bf16 gelu_tanh", (n,), [x, z], lambda: torch.nn.functional.gelu(x, **gelu))
        self.add("bf16 gelu_tanh backward", (n,), [x, y, z],
                 lambda: aten.gelu_backward(y, x, **gelu))
        self.add("bf16 dropout", (n,), [x, z], lambda: torch.nn.functional.dropout(x, 0.5))
        full, stored = self.large[3], self.half(2, LARGE)
        self.add("bf16 from f32", (LARGE,), [full, stored], lambda: stored.copy_(full))
        self.add("bf16 to f32", (LARGE,), [full, stored], lambda: full.copy_(stored))
        shape = (131072, 1024)
        rows, dy = self.half(0, *shape), self.half(2, *shape)
        gamma, beta = (self.new(1024).bfloat16() for _ in range(2))
        self.add("bf16 reduce_sum rows", shape, [rows], lambda: rows.sum(0))
        _, mean, rstd = torch.native_layer_norm(rows, [1024], gamma, beta, 1e-5)
        self.add("bf16 layer_norm", shape, [rows, rows, mean, rstd],
                 lambda: torch.native_layer_norm(rows, [1024], gamma, beta, 1e-5))
        self.add("bf16 layer_norm backward", shape, [rows, dy, rows, mean, rstd],
                 lambda: aten.native_layer_norm_backward(dy, rows, [1024], mean, rstd, gamma, beta,
                                                         [True] * 3))
        for shape in ((16384, 8192), (2560, 50257)):
            logits = self.half(0, *shape)
            labels = torch.randint(0, shape[1], shape[:1], device="cuda")
            self.add("bf16 softmax_cross_entropy", shape, [logits], lambda x=logits, t=labels:
                     torch.nn.functional.cross_entropy(x, t, reduction="sum"))

    def channels_last(self, i, b, c, h, w):
        return self.half(i, b, h, w, c).permute(0, 3, 1, 2)

    def batch_norm_of_halves(self):
        torch, aten = self.torch, self.aten
        shape = (128, 256, 64, 64)
        x, dy = self.channels_last(0, *shape), self.channels_last(2, *shape)
        gamma, beta = self.new(256), self.new(256)
        self.add("bf16 batch_norm training", shape, [x, x, x],
                 lambda: torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True))
        _, mean, rstd = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.1, 1e-5)
        self.add("bf16 batch_norm backward", shape, [x, dy, x],
                 lambda: aten.native_batch_norm_backward(dy, x, gamma, None, None, mean, rstd, True,
                                                         1e-5, [True] * 3))

    def pooling_of_halves(self):
        torch, aten = self.torch, self.aten
        shape = (128, 64, 128, 128)
        x, y = self.channels_last(0, *shape), self.channels_last(1, 128, 64, 64, 64)
        _, indices = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
        self.add("bf16 max_pool2d", shape, [x, y], lambda: torch.nn.functional.max_pool2d(x, 2))
        self.add("bf16 max_pool2d backward", shape, [y, x],
                 lambda: aten.max_pool2d_with_indices_backward(y, x, [2, 2], [2, 2], [0, 0], [1, 1],
                                                               False, indices))

    def convolution_of_halves(self):
        torch, aten = self.torch, self.aten
        for shape, weight, stride, padding in (((64, 3, 224, 224), (64, 3, 7, 7), 2, 3),
                                               ((64, 64, 56, 56), (64, 64, 3, 3), 1, 1),
                                               ((64, 256, 56, 56), (64, 256, 1, 1), 1, 0),
                                               ((64, 256, 14, 14), (256, 256, 3, 3), 1, 1)):
            x = self.channels_last(0, *shape)
            w = self.new(*weight).bfloat16().to(memory_format=torch.channels_last)
            y = torch.nn.functional.conv2d(x, w, None, stride, padding)
            flops = 2 * y.numel() * weight[1] * weight[2] * weight[3]

            def backward(mask, x=x, w=w, y=y, stride=stride, padding=padding):
                return aten.convolution_backward(y, x, w, None, [stride] * 2, [padding] * 2, [1, 1],
                                                 False, [0, 0], 1, mask)

            self.add_flops("bf16 conv2d", shape, flops,
                           lambda x=x, w=w, stride=stride, padding=padding:
                           torch.nn.functional.conv2d(x, w, None, stride, padding))
            if shape[1] != 3:
                self.add_flops("bf16 conv2d backward_data", shape, flops,
                               lambda call=backward: call([True, False, False]))
            self.add_flops("bf16 conv2d backward_weights", shape, flops,
                           lambda call=backward: call([False, True, False]))

    def products_of_halves(self):
        torch = self.torch
        a, b = self.half(0, 4096, 4096), self.half(1, 4096, 4096)
        self.add_flops("bf16 matmul nn", (4096,) * 3, 2 * 4096**3, lambda: torch.matmul(a, b))
        for m, n, k in ((16384, 3072, 768), (16384, 768, 3072)):
            x, w, bias = self.half(0, m, k), self.half(1, k, n), self.new(n).bfloat16()
            self.add_flops("bf16 matmul bias", (m, n, k), 2 * m * n * k,
                           lambda x=x, w=w, bias=bias: torch.addmm(bias, x, w))
        x, w = self.half(0, 16384, 768), self.half(1, 16384, 3072)
        self.add_flops("bf16 matmul tn f32", (768, 3072, 16384), 2 * 768 * 3072 * 16384,
                       lambda: torch.matmul(x.t(), w))
        tokens, table = self.half(0, 2560, 768), self.half(1, 50257, 768)
        self.add_flops("bf16 matmul logits", (2560, 50257, 768), 2 * 2560 * 50257 * 768,
                       lambda: torch.matmul(tokens, table.t()))

    def attention(self):
        torch = self.torch
        shape = (16, 1024, 768)
        qkv = self.half(0, 16, 1024, 3, 12, 64).permute(2, 0, 3, 1, 4)
        q, k, v = (part.detach().requires_grad_() for part in qkv)
        flops = 2 * 16 * 1024 * 1024 * 768

        def forward():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

        with torch.enable_grad():
            y = forward()
        dy = torch.randn_like(y)
        self.add_flops("bf16 attention", shape, flops, forward)
        self.add_flops("bf16 attention backward", shape, flops * 5 // 2,
                       lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True))


def read_beside(path):
    """{(name, shape): milliseconds} of cuda_bench's table."""
    times = {}
    with open(path, encoding="utf-8") as file:
        for text in file:
            found = re.match(r"\| (.+?) \| \(([\d, ]*)\) \| [^|]* \| ([\d.]+) \|", text)
            if found:
                shape = tuple(int(dim) for dim in found[2].replace(",", " ").split())
                times[found[1], shape] = float(found[3])
    return times


def main():
    parser = argparse.ArgumentParser(description="PyTorch's kernels as cuda_bench measures Peal's")
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--beside", metavar="FILE")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("did not run: this Python has no torch")
        return 77
    if not torch.cuda.is_available():
        print("did not run: PyTorch sees no GPU")
        return 77
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    beside = read_beside(arguments.beside) if arguments.beside else {}
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, "
          f"cuDNN {torch.backends.cudnn.version()}\n")
    print("| kernel | shape | PyTorch ms | GB/s or TFLOP/s | Peal ms | times as fast |")
    print("|---|---|---:|---:|---:|---:|")
    with torch.no_grad():
        for (name, shape), (call, work, flops) in Lines(torch).all.items():
            if arguments.only not in name:
                continue
            peal = beside.get((name, shape))
            try:
                ms = measured(torch, call)
                row = f"{ms:.3f} | {work / ms / (1e9 if flops else 1e6):.4g}"
                ratio = f"{ms / peal:.2f}" if peal else "-"
            except RuntimeError as error:
                row, ratio = f"failed: {str(error).splitlines()[0]} | -", "-"
            print(f"| {name} | {shape} | {row} | {peal or '-'} | {ratio} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
