#include <algorithm>

#include "core/graph/op_checks.h"
#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"

namespace peal {
namespace {

const Shape kOne = {1};
const OpTraits kOnlyFirst = {{1, 2}, {}};  // targets and weights get no gradient
const OpTraits kNoGradient = {{0, 1, 2}, {}};

void check_weight(const char* op, Value x, Value weight) {
  check(x.shape().rank() >= 1, op, "wants a record axis, got shape ", x.shape());
  check_shape(op, "weight", weight, {x.shape()[0]});
}

void check_labels(const char* op, Value logits, Value labels, Value weight) {
  check_rank(op, "logits", logits, 2);
  check_weight(op, logits, weight);
  check_dtype(op, "labels", labels, DType::i32);
  const Shape expected = {logits.shape()[0]};
  check(labels.shape() == expected, op, "labels wants shape ", expected, ", got ", labels.shape());
}

// One number a record: (B) or (B, 1), targets either way too.
void check_binary(const char* op, Value logits, Value targets, Value weight) {
  check_f32(op, "logits", logits);
  check_weight(op, logits, weight);
  check_f32(op, "targets", targets);
  const std::int64_t records = logits.shape()[0];
  check(logits.shape().numel() == records, op, "logits wants shape (", records, ") or (", records,
        ", 1), got ", logits.shape());
  check(targets.shape().numel() == records, op, "targets wants shape (", records, ") or (", records,
        ", 1), got ", targets.shape());
}

}  // namespace

Value softmax_cross_entropy(Value logits, Value labels, Value weight) {
  const char* op = "softmax_cross_entropy";
  check_f32(op, "logits", logits);
  check(logits.shape().rank() >= 2, op, "logits wants 2 dimensions or more, got shape ",
        logits.shape());
  check_weight(op, logits, weight);
  check_dtype(op, "labels", labels, DType::i32);
  const Shape expected(std::vector<std::int64_t>(logits.shape().begin(), logits.shape().end() - 1));
  check(labels.shape() == expected, op, "labels wants shape ", expected, ", got ", labels.shape());
  const std::int64_t rows = expected.numel(), classes = logits.shape()[-1];
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const DType stored = c.stored();
    constexpr auto kPadded = OpCompiler::Order::padded_rows;
    const Ref in = c.in(0, kPadded, stored), x = c.view(in, {rows, classes});
    const Ref t = c.view(c.in(1), {rows}), w = c.in(2), loss = c.out(), saved = c.memory({rows, 2});
    if (c.grad_in_by_forward(0, in, kPadded)) {
      return c.forward({x, t, w, saved, loss}, [=, &k](Run& r) {
        k.softmax_cross_entropy_with_gradient(r.stream, r[x], r[t], r[w], r.loss_scale, r[saved],
                                              r[loss], r[x]);
      });
    }
    c.forward({x, t, w, saved, loss}, [=, &k](Run& r) {
      k.softmax_cross_entropy(r.stream, r[x], r[t], r[w], r[saved], r[loss]);
    });
    const Ref dloss = c.grad_out();
    const Ref dx = c.view(c.grad_in_over(0, stored, kPadded), {rows, classes});
    c.backward({x, saved, t, w, dloss, dx}, [=, &k](Run& r) {
      k.softmax_cross_entropy_backward(r.stream, r[x], r[saved], r[t], r[w], r[dloss], r[dx]);
    });
  };
  return record(op, {logits, labels, weight}, kOne, compile, kOnlyFirst);
}

Value binary_cross_entropy(Value logits, Value targets, Value weight) {
  const char* op = "binary_cross_entropy";
  check_binary(op, logits, targets, weight);
  const Shape flat = weight.shape();
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref x = c.view(c.in(0), flat), t = c.view(c.in(1), flat), w = c.in(2), loss = c.out();
    c.forward({x, t, w, loss},
              [=, &k](Run& r) { k.binary_cross_entropy(r.stream, r[x], r[t], r[w], r[loss]); });
    const Ref dloss = c.grad_out(), dx = c.view(c.grad_in(0), flat);
    c.backward({x, t, w, dloss, dx}, [=, &k](Run& r) {
      k.binary_cross_entropy_backward(r.stream, r[x], r[t], r[w], r[dloss], r[dx]);
    });
  };
  return record(op, {logits, targets, weight}, kOne, compile, kOnlyFirst);
}

Value squared_error(Value x, Value targets, Value weight) {
  const char* op = "squared_error";
  check_f32(op, "x", x);
  check_f32(op, "targets", targets);
  check_weight(op, x, weight);
  const std::int64_t records = x.shape()[0];
  const Shape flat = {records, x.shape().numel() / std::max<std::int64_t>(records, 1)};
  check(targets.shape().numel() == flat.numel() && targets.shape().rank() >= 1 &&
            targets.shape()[0] == records,
        op, "targets of shape ", targets.shape(), " do not fit x of shape ", x.shape());
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref in = c.view(c.in(0), flat), t = c.view(c.in(1), flat), w = c.in(2), loss = c.out();
    c.forward({in, t, w, loss},
              [=, &k](Run& r) { k.squared_error(r.stream, r[in], r[t], r[w], r[loss]); });
    const Ref dloss = c.grad_out(), dx = c.view(c.grad_in(0), flat);
    c.backward({in, t, w, dloss, dx}, [=, &k](Run& r) {
      k.squared_error_backward(r.stream, r[in], r[t], r[w], r[dloss], r[dx]);
    });
  };
  return record(op, {x, targets, weight}, kOne, compile, kOnlyFirst);
}

Value count_correct(Value logits, Value labels, Value weight) {
  const char* op = "count_correct";
  check_labels(op, logits, labels, weight);
  const auto compile = [](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref x = c.in(0), t = c.in(1), w = c.in(2), count = c.out();
    c.forward({x, t, w, count},
              [=, &k](Run& r) { k.count_correct(r.stream, r[x], r[t], r[w], r[count]); });
  };
  return record(op, {logits, labels, weight}, kOne, compile, kNoGradient);
}

Value count_correct_binary(Value logits, Value targets, Value weight) {
  const char* op = "count_correct_binary";
  check_binary(op, logits, targets, weight);
  const Shape flat = weight.shape();
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref x = c.view(c.in(0), flat), t = c.view(c.in(1), flat), w = c.in(2), count = c.out();
    c.forward({x, t, w, count},
              [=, &k](Run& r) { k.count_correct_binary(r.stream, r[x], r[t], r[w], r[count]); });
  };
  return record(op, {logits, targets, weight}, kOne, compile, kNoGradient);
}

}  // namespace peal
