#include <algorithm>
#include <array>

#include "core/graph/fused_ops.h"
#include "core/graph/op_checks.h"
#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"

namespace peal {
namespace {

using Starts = std::array<std::int64_t, Shape::kMaxRank>;

Starts at(int axis, std::int64_t begin) {
  Starts starts{};
  starts[static_cast<std::size_t>(axis)] = begin;
  return starts;
}

std::span<const std::int64_t> first(const Starts& starts, const Shape& shape) {
  return {starts.data(), static_cast<std::size_t>(shape.rank())};
}

// x with the reduced axes kept as 1, and without them.
struct ReducedShapes {
  Shape kept, dropped;
};

ReducedShapes reduced_shapes(const char* op, Value x, const std::vector<int>& axes) {
  std::array<bool, Shape::kMaxRank> reduced{};
  check(!axes.empty(), op, "wants at least one axis");
  for (const int axis : axes) {
    bool& flag = reduced[static_cast<std::size_t>(check_axis(op, x, axis))];
    check(!flag, op, "axis ", axis, " is given twice");
    flag = true;
  }
  ReducedShapes shapes;
  for (int i = 0; i < x.shape().rank(); ++i) {
    const bool sum = reduced[static_cast<std::size_t>(i)];
    shapes.kept.push_back(sum ? 1 : x.shape()[i]);
    if (!sum) shapes.dropped.push_back(x.shape()[i]);
  }
  return shapes;
}

Value reduce(const char* op, Value x, const std::vector<int>& axes, bool keep_dims, bool mean) {
  check_f32(op, "x", x);
  const ReducedShapes shapes = reduced_shapes(op, x, axes);
  const Shape kept = shapes.kept;
  const std::int64_t count = x.shape().numel() / std::max<std::int64_t>(kept.numel(), 1);
  const float factor = mean ? static_cast<float>(1.0 / static_cast<double>(count)) : 1;
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref in = c.in(0, kRows, c.stored()), y = c.view(c.out(), kept);
    const Ref dy = c.view(c.grad_out(), kept), dx = c.grad_in(0, kRows, c.stored());
    c.forward({in, y}, [=, &k](Run& r) { k.reduce_sum(r.stream, r[in], factor, r[y]); });
    c.backward({dy, dx}, [=, &k](Run& r) { k.broadcast(r.stream, r[dy], factor, r[dx]); });
  };
  return record(op, {x}, keep_dims ? kept : shapes.dropped, compile);
}

}  // namespace

Value reshape(Value x, const Shape& shape) {
  const char* op = "reshape";
  check(x.valid(), op, "x was never assigned");
  Shape result = shape;
  int rest = -1;
  std::int64_t known = 1;
  for (int i = 0; i < shape.rank(); ++i) {
    check(shape[i] != 0 || rest < 0, op, "shape ", shape, " has more than one 0");
    if (shape[i] == 0) rest = i;
    if (shape[i] != 0) known *= shape[i];
  }
  const std::int64_t numel = x.shape().numel();
  if (rest >= 0) result[rest] = numel / known;
  check(result.numel() == numel, op, "x ", x.shape(), " of ", numel,
        " elements does not fit shape ", shape);
  return x.graph().add_alias(x, result);
}

Value flatten(Value x) {
  check(x.valid() && x.shape().rank() >= 1, "flatten", "wants one dimension or more");
  const std::int64_t rows = x.shape()[0];
  return reshape(x, {rows, x.shape().numel() / std::max<std::int64_t>(rows, 1)});
}

Value transpose(Value x, std::vector<int> permutation) {
  const char* op = "transpose";
  check_f32(op, "x", x);
  const auto rank = static_cast<std::size_t>(x.shape().rank());
  std::vector<int> inverse(rank, -1);
  check(permutation.size() == rank, op, "x ", x.shape(), " wants a permutation of ", rank,
        " axes, got ", permutation.size());
  Shape shape;
  for (std::size_t i = 0; i < rank; ++i) {
    const int axis = check_axis(op, x, permutation[i]);
    int& place = inverse[static_cast<std::size_t>(axis)];
    check(place < 0, op, "axis ", axis, " stands twice in the permutation");
    place = static_cast<int>(i);
    permutation[i] = axis;
    shape.push_back(x.shape()[axis]);
  }
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref in = c.in(0), y = c.out(), dy = c.grad_out(), dx = c.grad_in(0);
    c.forward({in, y}, [=, &k](Run& r) { k.transpose(r.stream, r[in], permutation, r[y]); });
    c.backward({dy, dx}, [=, &k](Run& r) { k.transpose(r.stream, r[dy], inverse, r[dx]); });
  };
  return record(op, {x}, shape, compile);
}

Value concat(std::span<const Value> parts, int axis) {
  const char* op = "concat";
  check(!parts.empty(), op, "wants at least one part");
  check_f32(op, "part 0", parts[0]);
  axis = check_axis(op, parts[0], axis);
  Shape shape = parts[0].shape();
  std::vector<std::int64_t> begins = {0};
  for (std::size_t i = 1; i < parts.size(); ++i) {
    check_f32(op, "a part", parts[i]);
    Shape expected = shape;
    if (parts[i].shape().rank() == shape.rank()) expected[axis] = parts[i].shape()[axis];
    check(parts[i].shape() == expected, op, "part ", i, " of shape ", parts[i].shape(),
          " does not fit part 0 of shape ", parts[0].shape(), " along axis ", axis);
    begins.push_back(shape[axis]);
    shape[axis] += parts[i].shape()[axis];
  }
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref y = c.out(), dy = c.grad_out();
    for (int i = 0; i < c.inputs(); ++i) {
      const Ref part = c.in(i), dx = c.grad_in(i);
      const Shape extent = c.in_shape(i);
      const Starts begin = at(axis, begins[static_cast<std::size_t>(i)]), zero{};
      c.forward({part, y}, [=, &k](Run& r) {
        k.copy_box(r.stream, r[part], first(zero, extent), r[y], first(begin, extent), extent);
      });
      if (!c.needs_grad(i)) continue;
      c.backward({dy, dx}, [=, &k](Run& r) {
        k.copy_box(r.stream, r[dy], first(begin, extent), r[dx], first(zero, extent), extent);
      });
    }
  };
  return record(op, {parts.begin(), parts.end()}, shape, compile);
}

Value slice(Value x, int axis, std::int64_t begin, std::int64_t end) {
  const char* op = "slice";
  check_f32(op, "x", x);
  axis = check_axis(op, x, axis);
  check(begin >= 0 && begin < end && end <= x.shape()[axis], op, "[", begin, ", ", end,
        ") of axis ", axis, " of x ", x.shape(),
        "; allowed: 0 <= begin < end <= ", x.shape()[axis]);
  Shape shape = x.shape();
  shape[axis] = end - begin;
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref in = c.in(0), y = c.out(), dy = c.grad_out(), dx = c.grad_in(0);
    const Starts start = at(axis, begin), zero{};
    c.forward({in, y}, [=, &k](Run& r) {
      k.copy_box(r.stream, r[in], first(start, shape), r[y], first(zero, shape), shape);
    });
    c.backward({dy, dx}, [=, &k](Run& r) {
      k.fill(r.stream, r[dx], 0);
      k.copy_box(r.stream, r[dy], first(zero, shape), r[dx], first(start, shape), shape);
    });
  };
  return record(op, {x}, shape, compile);
}

Value reduce_sum(Value x, std::vector<int> axes, bool keep_dims) {
  return reduce("reduce_sum", x, axes, keep_dims, /*mean=*/false);
}

Value reduce_mean(Value x, std::vector<int> axes, bool keep_dims) {
  return reduce("reduce_mean", x, axes, keep_dims, /*mean=*/true);
}

}  // namespace peal
