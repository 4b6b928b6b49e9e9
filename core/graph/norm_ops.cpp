#include <algorithm>

#include "core/graph/fused_ops.h"
#include "core/graph/op_checks.h"
#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"

namespace peal {
namespace {

std::int64_t rows_of(const Shape& shape) {
  return shape.numel() / std::max<std::int64_t>(shape[-1], 1);
}

Value softmax_over_rows(const char* op, Value x, bool log) {
  check_f32(op, "x", x);
  check(x.shape().rank() >= 1, op, "wants one dimension or more");
  const auto compile = [=](OpCompiler& c) {
    const Shape& shape = c.in_shape(0);
    const std::shared_ptr<Softmax> kernel =
        c.kernels().make_softmax(rows_of(shape), shape[-1], log);
    const Ref in = c.in(0), y = c.out(), dy = c.grad_out(), dx = c.grad_in(0);
    const Ref scratch = c.scratch(kernel->scratch_bytes());
    c.forward({in, y, scratch},
              [=](Run& r) { kernel->forward(r.stream, r[in], r[y], r[scratch]); });
    c.backward({y, dy, dx, scratch},
               [=](Run& r) { kernel->backward(r.stream, r[y], r[dy], r[dx], r[scratch]); });
  };
  return record(op, {x}, x.shape(), compile);
}

// Inputs of the batch_norm node; a merged one has what is added as the last.
enum : int { kX, kGamma, kBeta, kWeight, kRunningMean, kRunningVariance, kResidual };

// x and the residual as they lie, if that is one layout; else both row-major.
OpCompiler::Order order_of(const OpCompiler& c, bool residual) {
  const DType t = c.stored();
  if (!residual || c.in_layout(kX, t) == c.in_layout(kResidual, t)) return kAny;
  return OpCompiler::Order::row_major;
}

void compile_batch_norm_training(OpCompiler& c, const BatchNormForm& form) {
  Kernels& k = c.kernels();
  const Shape channels = c.in_shape(kGamma);
  const OpCompiler::Order order = order_of(c, form.residual);
  const DType t = c.stored();
  const Ref x = c.in(kX, order, t), weight = c.in(kWeight);
  const Ref gamma = c.in(kGamma), beta = c.in(kBeta);
  const Ref residual = form.residual ? c.in(kResidual, order, t) : Ref{};
  const Ref y = c.out(0, order == kAny ? c.in_layout(kX, t) : nullptr, t);
  const Ref contribution = c.out(1);
  const Ref mean = c.memory(channels), variance = c.memory(channels);
  c.forward({x, weight, mean, variance, contribution}, [=, &k](Run& r) {
    k.batch_norm_statistics(r.stream, r[x], r[weight], r[mean], r[variance], r[contribution]);
  });
  c.written({mean, variance, contribution});
  c.forward({x, mean, variance, gamma, beta, residual, y}, [=, &k](Run& r) {
    k.batch_norm(r.stream, r[x], r[mean], r[variance], r[gamma], r[beta], form.epsilon, r[residual],
                 form.activation, r[y]);
  });
  const Ref dy = c.grad_out(0), dx = c.grad_in_or_temporary(kX, order, t);
  const Ref dgamma = c.grad_in_or_temporary(kGamma), dbeta = c.grad_in_or_temporary(kBeta);
  const bool adds = form.residual && c.needs_grad(kResidual);
  const Ref dresidual = adds            ? c.grad_in_over(kResidual, dy, order)
                        : form.residual ? c.grad_in_or_temporary(kResidual, order, t)
                                        : Ref{};
  const Ref kept_y = form.residual ? y : Ref{};
  const Ref more_dy = form.residual ? c.grad_out_more(0) : Ref{};
  c.backward(
      {x, weight, mean, variance, gamma, beta, kept_y, dy, more_dy, dx, dgamma, dbeta, dresidual},
      [=, &k](Run& r) {
        k.batch_norm_backward(r.stream, r[x], r[weight], r[mean], r[variance], r[gamma], r[beta],
                              form.epsilon, r[kept_y], form.activation, r[dy], r[more_dy], r[dx],
                              r[dgamma], r[dbeta], r[dresidual]);
      });
}

// By the running averages; nothing is added to them.
void compile_batch_norm_evaluation(OpCompiler& c, const BatchNormForm& form) {
  Kernels& k = c.kernels();
  const OpCompiler::Order order = order_of(c, form.residual);
  const DType t = c.stored();
  const Ref x = c.in(kX, order, t), gamma = c.in(kGamma), beta = c.in(kBeta);
  const Ref residual = form.residual ? c.in(kResidual, order, t) : Ref{};
  const Ref mean = c.in(kRunningMean), variance = c.in(kRunningVariance);
  const Ref y = c.out(0, order == kAny ? c.in_layout(kX, t) : nullptr, t);
  const Ref contribution = c.out(1);
  c.forward({x, mean, variance, gamma, beta, residual, y, contribution}, [=, &k](Run& r) {
    k.batch_norm(r.stream, r[x], r[mean], r[variance], r[gamma], r[beta], form.epsilon, r[residual],
                 form.activation, r[y]);
    k.fill(r.stream, r[contribution], 0);
  });
}

}  // namespace

CompileOp compile_batch_norm(const BatchNormForm& form) {
  return [=](OpCompiler& c) {
    if (c.training())
      compile_batch_norm_training(c, form);
    else
      compile_batch_norm_evaluation(c, form);
  };
}

Value softmax(Value x) {
  return softmax_over_rows("softmax", x, /*log=*/false);
}

Value log_softmax(Value x) {
  return softmax_over_rows("log_softmax", x, /*log=*/true);
}

Value layer_norm(Value x, Value gamma, Value beta, float epsilon) {
  const char* op = "layer_norm";
  check_f32(op, "x", x);
  check(x.shape().rank() >= 1, op, "wants one dimension or more");
  check_shape(op, "gamma", gamma, {x.shape()[-1]});
  check_shape(op, "beta", beta, {x.shape()[-1]});
  const auto compile = [=](OpCompiler& c) {
    const std::int64_t columns = c.in_shape(0)[-1], rows = rows_of(c.in_shape(0));
    const DType t = c.stored();
    const std::shared_ptr<LayerNorm> kernel =
        c.kernels().make_layer_norm(rows, columns, epsilon, t);
    const Ref in = c.in(0, kRows, t), g = c.in(1), b = c.in(2), y = c.out(0, nullptr, t);
    const Ref mean = c.memory({rows}), variance = c.memory({rows});
    const Ref scratch = c.scratch(kernel->scratch_bytes());
    c.forward({in, g, b, y, mean, variance, scratch}, [=](Run& r) {
      kernel->forward(r.stream, r[in], r[g], r[b], r[y], r[mean], r[variance], r[scratch]);
    });
    const Ref dy = c.grad_out(), dx = c.grad_in_or_temporary(0, kRows, t);
    const Ref more_dx = c.grad_in_more(0, kernel->adds_in_place());
    const Ref dgamma = c.grad_in_or_temporary(1), dbeta = c.grad_in_or_temporary(2);
    c.backward({in, g, mean, variance, dy, more_dx, dx, dgamma, dbeta, scratch}, [=](Run& r) {
      kernel->backward(r.stream, r[in], r[g], r[mean], r[variance], r[dy], r[more_dx], r[dx],
                       r[dgamma], r[dbeta], r[scratch]);
    });
  };
  return record(op, {x, gamma, beta}, x.shape(), compile);
}

Value batch_norm(const std::string& name, Value x, Value gamma, Value beta, Value weight,
                 float momentum, float epsilon) {
  const char* op = "batch_norm";
  check_f32(op, "x", x);
  check(x.shape().rank() >= 2, op, "x wants two dimensions or more (B, C, ...), got shape ",
        x.shape());
  const Shape channels = {x.shape()[1]};
  check_shape(op, "gamma", gamma, channels);
  check_shape(op, "beta", beta, channels);
  check_shape(op, "weight", weight, {x.shape()[0]});
  Graph& graph = x.graph();
  const Value mean = graph.state(name + ".running_mean", channels, 0);
  const Value variance = graph.state(name + ".running_var", channels, 1);
  const Shape sums = {2 * channels[0] + 1};
  const auto made = graph.add_op(op, {x, gamma, beta, weight, mean, variance},
                                 {{x.shape(), DType::f32}, {sums, DType::f32}},
                                 compile_batch_norm({epsilon, Activation::none, false}),
                                 {{kWeight, kRunningMean, kRunningVariance}, epsilon});
  graph.add_slot(name + ".statistics", made[1], [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref summed = c.in(0), m = c.ref(mean), v = c.ref(variance);
    c.forward({summed, m, v},
              [=, &k](Run& r) { k.batch_norm_running(r.stream, r[summed], momentum, r[m], r[v]); });
  });
  return made[0];
}

Value attention(Value qkv, std::int64_t heads) {
  const char* op = "attention";
  check_rank(op, "qkv", qkv, 3);
  const std::int64_t batch = qkv.shape()[0], time = qkv.shape()[1], width = qkv.shape()[2] / 3;
  check(batch > 0 && time > 0 && width > 0 && qkv.shape()[2] == 3 * width, op,
        "qkv wants shape (B, T, 3*C), got ", qkv.shape());
  check(heads > 0 && width % heads == 0, op, heads, " heads do not divide ", width, " columns");
  const auto compile = [=](OpCompiler& c) {
    const DType t = c.stored();
    const std::shared_ptr<Attention> kernel =
        c.kernels().make_attention({.batch = batch,
                                    .time = time,
                                    .heads = heads,
                                    .width = width,
                                    .training = c.needs_backward(),
                                    .stored = t,
                                    .deterministic = c.deterministic()});
    const Ref in = c.in(0, kRows, t), y = c.out(0, nullptr, t),
              log_sums = c.memory({batch, heads, time});
    const Ref scratch = c.scratch(kernel->scratch_bytes());
    c.forward({in, y, log_sums, scratch},
              [=](Run& r) { kernel->forward(r.stream, r[in], r[y], r[log_sums], r[scratch]); });
    const Ref dy = c.grad_out(), dx = c.grad_in(0, kRows, t);
    c.backward({in, y, log_sums, dy, dx, scratch}, [=](Run& r) {
      kernel->backward(r.stream, r[in], r[y], r[log_sums], r[dy], r[dx], r[scratch]);
    });
  };
  return record(op, {qkv}, {batch, time, width}, compile);
}

Value embedding(Value ids, Value table) {
  const char* op = "embedding";
  check_dtype(op, "ids", ids, DType::i32);
  check_rank(op, "table", table, 2);
  const Shape flat_ids = {ids.shape().numel()}, flat = {ids.shape().numel(), table.shape()[1]};
  Shape shape = ids.shape();
  shape.push_back(table.shape()[1]);
  const auto compile = [=](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref i = c.view(c.in(0), flat_ids), t = c.in(1);
    const Ref y = c.view(c.out(0, nullptr, c.stored()), flat);
    c.forward({i, t, y}, [=, &k](Run& r) { k.embedding(r.stream, r[i], r[t], r[y]); });
    if (!c.needs_grad(1)) return;
    const Ref dy = c.view(c.grad_out(), flat), dt = c.grad_in(1);
    const Ref more = c.grad_in_more(1, /*in_place=*/true);
    const Ref scratch = c.scratch(Kernels::embedding_scratch_bytes(flat[0], c.in_shape(1)[0]));
    c.backward({i, dy, more, dt, scratch}, [=, &k](Run& r) {
      const Tensor &there = r[more], &to = r[dt];
      if (!there.empty() && there.data != to.data) k.copy(r.stream, there, to);
      k.embedding_backward(r.stream, r[i], r[dy], /*adds=*/!there.empty(), to, r[scratch]);
    });
  };
  return record(op, {ids, table}, shape, compile);
}

}  // namespace peal
