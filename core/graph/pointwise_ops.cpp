#include <algorithm>

#include "core/graph/fused_ops.h"
#include "core/graph/op_checks.h"
#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"

namespace peal {
namespace {

Value activation(const char* op, Activation kind, Value x, float slope = 0) {
  check_f32(op, "x", x);
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const DType t = c.stored();
    const Ref in = c.in(0, kAny, t), y = c.out(0, c.in_layout(0, t), t);
    c.forward({in, y}, [=, &k](Run& r) { k.activation(r.stream, kind, slope, r[in], r[y]); });
    // The kernel reads one of x and y, and only that one is kept.
    const Ref kept_x = backward_reads_x(kind) ? in : Ref{};
    const Ref kept_y = backward_reads_x(kind) ? Ref{} : y;
    const Ref dy = c.grad_out(), dx = c.grad_in(0, kAny, t);
    c.backward({kept_x, kept_y, dy, dx}, [=, &k](Run& r) {
      k.activation_backward(r.stream, kind, slope, r[kept_x], r[kept_y], r[dy], r[dx]);
    });
  };
  return record(op, {x}, x.shape(), compile);
}

Shape broadcast_shape(const char* op, const Shape& x, const Shape& y) {
  std::vector<std::int64_t> dims;
  for (int i = -1; i >= -std::max(x.rank(), y.rank()); --i) {
    const std::int64_t a = -i <= x.rank() ? x[i] : 1, b = -i <= y.rank() ? y[i] : 1;
    check(a == b || a == 1 || b == 1, op, "x ", x, " and y ", y,
          " do not broadcast: dimensions must be equal or 1, counted from the last");
    dims.push_back(a == 1 ? b : a);
  }
  std::reverse(dims.begin(), dims.end());
  return Shape(dims);
}

// `shape` with ones in front up to `rank` dimensions.
Shape padded(const Shape& shape, int rank) {
  std::vector<std::int64_t> dims(static_cast<std::size_t>(rank - shape.rank()), 1);
  dims.insert(dims.end(), shape.begin(), shape.end());
  return Shape(dims);
}

// As they lie where that is one layout: of values of one shape. A repeated one is row-major.
OpCompiler::Order common_order(const OpCompiler& c) {
  const DType t = c.stored();
  const bool same = c.in_shape(0) == c.in_shape(1) && c.in_layout(0, t) == c.in_layout(1, t);
  return same ? kAny : OpCompiler::Order::row_major;
}

// dx = `full`, which is stored and has the output's shape, summed over the axes along which x was
// repeated: such sums are f32.
void sum_to_input(OpCompiler& c, int i, Ref full, OpCompiler::Order order) {
  if (c.in_shape(i) == c.out_shape()) return c.grad_in_copy(i, full, order);
  Kernels& k = c.kernels();
  const Ref dx = c.grad_in(i);
  const Ref to = c.view(dx, padded(c.in_shape(i), c.out_shape().rank()));
  c.backward({full, to}, [=, &k](Run& r) { k.reduce_sum(r.stream, r[full], 1, r[to]); });
}

}  // namespace

Ref grad_before(OpCompiler& c, Activation activation, Ref y) {
  if (activation == Activation::none) return c.grad_out();
  Kernels& k = c.kernels();
  const Ref dy = c.grad_out_in_place();
  c.backward({y, dy}, [=, &k](Run& r) {
    k.activation_backward(r.stream, activation, 0, {}, r[y], r[dy], r[dy]);
  });
  return dy;
}

Value relu(Value x) {
  return activation("relu", Activation::relu, x);
}

Value leaky_relu(Value x, float slope) {
  check(slope > 0, "leaky_relu", "slope ", slope, "; allowed: > 0");
  return activation("leaky_relu", Activation::leaky_relu, x, slope);
}

Value gelu(Value x) {
  return activation("gelu", Activation::gelu, x);
}

Value gelu_tanh(Value x) {
  return activation("gelu_tanh", Activation::gelu_tanh, x);
}

Value sigmoid(Value x) {
  return activation("sigmoid", Activation::sigmoid, x);
}

Value tanh(Value x) {
  return activation("tanh", Activation::tanh, x);
}

Value add(Value x, Value y) {
  check_f32("add", "x", x);
  check_f32("add", "y", y);
  const auto compile = [](OpCompiler& c) {
    Kernels& k = c.kernels();
    const OpCompiler::Order order = common_order(c);
    const DType t = c.stored();
    const Ref a = c.in(0, order, t), b = c.in(1, order, t);
    const Ref z = c.out(0, order == kAny ? c.in_layout(0, t) : nullptr, t), dz = c.grad_out();
    c.forward({a, b, z}, [=, &k](Run& r) { k.binary(r.stream, BinaryOp::add, r[a], r[b], r[z]); });
    for (int i = 0; i < 2; ++i)
      if (c.needs_grad(i)) sum_to_input(c, i, dz, order);
  };
  return record("add", {x, y}, broadcast_shape("add", x.shape(), y.shape()), compile);
}

Value mul(Value x, Value y) {
  check_f32("mul", "x", x);
  check_f32("mul", "y", y);
  const auto compile = [](OpCompiler& c) {
    Kernels& k = c.kernels();
    const DType t = c.stored();
    const Ref a = c.in(0, kRows, t), b = c.in(1, kRows, t), z = c.out(0, nullptr, t);
    const Ref dz = c.grad_out();
    c.forward({a, b, z}, [=, &k](Run& r) { k.binary(r.stream, BinaryOp::mul, r[a], r[b], r[z]); });
    for (int i = 0; i < 2; ++i) {
      if (!c.needs_grad(i)) continue;
      const Ref other = i == 0 ? b : a;
      const bool direct = c.in_shape(i) == c.out_shape();
      const Ref product = direct ? c.grad_in(i, kRows, t) : c.memory(c.out_shape(), t);
      c.backward({dz, other, product}, [=, &k](Run& r) {
        k.binary(r.stream, BinaryOp::mul, r[dz], r[other], r[product]);
      });
      if (!direct) sum_to_input(c, i, product, OpCompiler::Order::row_major);
    }
  };
  return record("mul", {x, y}, broadcast_shape("mul", x.shape(), y.shape()), compile);
}

Value scale(Value x, float factor) {
  check_f32("scale", "x", x);
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const DType t = c.stored();
    const Ref in = c.in(0, kAny, t), y = c.out(0, c.in_layout(0, t), t);
    const Ref dy = c.grad_out(), dx = c.grad_in(0, kAny, t);
    c.forward({in, y}, [=, &k](Run& r) { k.scale(r.stream, factor, r[in], r[y]); });
    c.backward({dy, dx}, [=, &k](Run& r) { k.scale(r.stream, factor, r[dy], r[dx]); });
  };
  return record("scale", {x}, x.shape(), compile);
}

// The mask is never stored: backward draws it again.
Value dropout(Value x, float p) {
  check_f32("dropout", "x", x);
  check(p >= 0 && p < 1, "dropout", "p ", p, "; allowed: [0, 1)");
  const auto compile = [=](OpCompiler& c) {
    if (!c.training()) return c.pass_through();
    Kernels& k = c.kernels();
    const std::uint64_t site = c.site();
    const auto drop = [=, &k](Run& r, Ref from, Ref to) {
      k.dropout(r.stream, r.draws, site, p, r[from], r[to]);
    };
    const DType t = c.stored();
    const Ref in = c.in(0, kRows, t), y = c.out(0, nullptr, t);
    const Ref dy = c.grad_out(), dx = c.grad_in(0, kRows, t);
    c.forward({in, y}, [=](Run& r) { drop(r, in, y); });
    c.backward({dy, dx}, [=](Run& r) { drop(r, dy, dx); });
  };
  return record("dropout", {x}, x.shape(), compile);
}

}  // namespace peal
