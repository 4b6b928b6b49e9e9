#include <algorithm>

#include "core/graph/fused_ops.h"
#include "core/graph/op_checks.h"
#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"

namespace peal {
namespace {

void copy_pair(const std::int64_t from[2], std::int64_t to[2]) {
  std::copy_n(from, 2, to);
}

// A window of `extent` in `size` + 2*padding.
void check_window(const char* op, Value x, int axis, std::int64_t extent, std::int64_t stride,
                  std::int64_t padding) {
  check(extent >= 1 && stride >= 1 && padding >= 0, op,
        "wants kernel, stride and dilation >= 1 and "
        "padding >= 0, got extent ",
        extent, ", stride ", stride, ", padding ", padding);
  check(x.shape()[axis] + 2 * padding >= extent, op, "a window of ", extent,
        " does not fit into axis ", axis, " of x ", x.shape(), " with padding ", padding);
}

Value pool2d(const char* op, PoolKind kind, Value x, const PoolOptions& options) {
  check_rank(op, "x", x, 4);
  for (int i = 0; i < 2; ++i) {
    check_window(op, x, 2 + i, options.kernel[i], options.stride[i], options.padding[i]);
    check(2 * options.padding[i] <= options.kernel[i], op, "padding ", options.padding[i],
          " is more than half of the kernel ", options.kernel[i]);
  }
  const auto compile = [=](OpCompiler& c) {
    Pool2dSpec spec = make_spec(kind, c.in_shape(0), options);
    const DType t = c.stored();
    spec.stored = t;
    spec.x_layout = c.in_layout(0, t);
    spec.training = c.needs_backward();
    const std::shared_ptr<Pool2d> kernel = c.kernels().make_pool2d(spec);
    const Ref in = c.in(0, kAny, t), y = c.out(0, kernel->y_layout(), t);
    const Ref saved = c.bytes(spec.training ? kernel->saved_bytes() : 0);
    const Ref scratch = c.scratch(kernel->scratch_bytes());
    c.forward({in, y, saved, scratch},
              [=](Run& r) { kernel->forward(r.stream, r[in], r[y], r[saved], r[scratch]); });
    const Ref dy = c.grad_out(), dx = c.grad_in(0, kAny, t);
    c.backward({dy, saved, dx, scratch},
               [=](Run& r) { kernel->backward(r.stream, r[dy], r[saved], r[dx], r[scratch]); });
  };
  return record(op, {x}, make_spec(kind, x.shape(), options).y(), compile, {{}, options});
}

}  // namespace

Conv2dSpec make_spec(const Shape& x, const Shape& weight, bool bias, const Conv2dOptions& options) {
  Conv2dSpec spec;
  spec.x = x;
  spec.w = weight;
  copy_pair(options.stride, spec.stride);
  copy_pair(options.padding, spec.padding);
  copy_pair(options.dilation, spec.dilation);
  spec.groups = options.groups;
  spec.bias = bias;
  return spec;
}

Pool2dSpec make_spec(PoolKind kind, const Shape& x, const PoolOptions& options) {
  Pool2dSpec spec;
  spec.kind = kind;
  spec.x = x;
  copy_pair(options.kernel, spec.kernel);
  copy_pair(options.stride, spec.stride);
  copy_pair(options.padding, spec.padding);
  spec.include_padding = options.include_padding;
  return spec;
}

CompileOp compile_conv2d(const Conv2dOptions& options, Activation activation) {
  return [=](OpCompiler& c) {
    const bool bias = c.inputs() == 3;
    Conv2dSpec spec = make_spec(c.in_shape(0), c.in_shape(1), bias, options);
    spec.activation = activation;
    spec.precision = c.precision();
    spec.deterministic = c.deterministic();
    const DType t = c.stored();
    spec.stored = t;
    spec.x_layout = c.in_layout(0, t);
    spec.training = c.needs_backward();
    spec.needs_dx = c.needs_grad(0);
    const bool needs_dw = c.needs_grad(1) || (bias && c.needs_grad(2));
    c.choose_algorithms(spec, needs_dw);
    const std::shared_ptr<Conv2d> kernel = c.kernels().make_conv2d(spec);
    const Ref x = c.in(0, kAny, t), w = c.in_as(1, kernel->w_layout(), t);
    const Ref b = bias ? c.in(2) : Ref{}, y = c.out(0, kernel->y_layout(), t);
    const Ref scratch = c.scratch(kernel->scratch_bytes());
    c.forward({x, w, b, y, scratch},
              [=](Run& r) { kernel->forward(r.stream, r[x], r[w], r[b], r[y], r[scratch]); });

    const Ref dy = grad_before(c, activation, y);
    if (needs_dw) {
      const Ref dw = c.grad_in_or_temporary(1), db = bias ? c.grad_in_or_temporary(2) : Ref{};
      c.backward({x, dy, dw, db, scratch}, [=](Run& r) {
        kernel->backward_weights(r.stream, r[x], r[dy], r[dw], r[db], r[scratch]);
      });
    }
    if (!c.needs_grad(0)) return;
    const Ref dx = c.grad_in(0, kAny, t);
    c.backward({dy, w, dx, scratch},
               [=](Run& r) { kernel->backward_data(r.stream, r[dy], r[w], r[dx], r[scratch]); });
  };
}

CompileOp compile_conv_relu_pool(std::shared_ptr<ConvReluPool> kernel) {
  return [=](OpCompiler& c) {
    const bool bias = c.inputs() == 3;
    const Ref x = c.in(0), w = c.in(1), b = bias ? c.in(2) : Ref{}, y = c.out();
    const Ref saved = c.bytes(kernel->saved_bytes());
    const Ref scratch = c.scratch(kernel->scratch_bytes());
    c.forward({x, w, b, y, saved, scratch}, [=](Run& r) {
      kernel->forward(r.stream, r[x], r[w], r[b], r[y], r[saved], r[scratch]);
    });
    const Ref dy = c.grad_out(), dx = c.grad_in(0);
    const Ref dw = c.grad_in_or_temporary(1), db = bias ? c.grad_in_or_temporary(2) : Ref{};
    c.backward({x, w, y, dy, saved, dx, dw, db, scratch}, [=](Run& r) {
      kernel->backward(r.stream, r[x], r[w], r[y], r[dy], r[saved], r[dx], r[dw], r[db],
                       r[scratch]);
    });
  };
}

Value conv2d(Value x, Value weight, Value bias, const Conv2dOptions& options) {
  const char* op = "conv2d";
  check_rank(op, "x", x, 4);
  check_rank(op, "weight", weight, 4);
  const Shape &xs = x.shape(), &ws = weight.shape();
  const std::int64_t groups = options.groups;
  check(groups >= 1 && ws[0] % groups == 0, op, "groups ", groups, " must divide the ", ws[0],
        " filters of weight ", ws);
  check(xs[1] == ws[1] * groups, op, "weight ", ws, " wants ", ws[1] * groups,
        " input channels, x ", xs, " has ", xs[1]);
  for (int i = 0; i < 2; ++i) {
    check(options.dilation[i] >= 1, op, "dilation ", options.dilation[i], "; allowed: >= 1");
    check_window(op, x, 2 + i, options.dilation[i] * (ws[2 + i] - 1) + 1, options.stride[i],
                 options.padding[i]);
  }
  std::vector<Value> inputs = {x, weight};
  if (bias.valid()) {
    check_shape(op, "bias", bias, {ws[0]});
    inputs.push_back(bias);
  }
  return record(op, inputs, make_spec(xs, ws, bias.valid(), options).y(),
                compile_conv2d(options, Activation::none), {{}, options});
}

Value max_pool2d(Value x, const PoolOptions& options) {
  return pool2d("max_pool2d", PoolKind::max, x, options);
}

Value avg_pool2d(Value x, const PoolOptions& options) {
  return pool2d("avg_pool2d", PoolKind::average, x, options);
}

Value global_avg_pool2d(Value x) {
  check_rank("global_avg_pool2d", "x", x, 4);
  return reduce_mean(x, {2, 3});
}

}  // namespace peal
