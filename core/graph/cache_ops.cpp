// What a model that goes on with a text, position by position, has beyond its training: no op here
// has a gradient.
#include "core/graph/op_checks.h"
#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"

namespace peal {
namespace {

void refuse_gradient(const OpCompiler& c, const char* op) {
  if (c.needs_backward()) fail_internal(op, "has no gradient; attention has");
}

// Keys and values of each head from qkv (B, T, 3*C) to the cache (B, 2, H, U, D).
void keep(OpCompiler& c, const AttentionSpec& spec, Ref qkv, Ref cache) {
  Kernels& k = c.kernels();
  const std::int64_t depth = spec.width / spec.heads, context = c.in_shape(1)[3];
  const Ref rows = c.view(qkv, {spec.batch, 1, spec.time, 3 * spec.width});
  const Ref parts = c.view(cache, {spec.batch, 2 * spec.heads, context, depth});
  const Shape extent = {spec.batch, 1, spec.time, depth};
  c.forward({rows, parts}, [=, &k](Run& r) {
    for (std::int64_t part = 0; part < 2 * spec.heads; ++part) {
      const std::int64_t from[] = {0, 0, 0, spec.width + part * depth}, to[] = {0, part, 0, 0};
      k.copy_box(r.stream, r[rows], from, r[parts], to, extent);
    }
  });
}

// The first T positions, as attention computes them, which leave keys and values behind.
CompileOp compile_first(const AttentionSpec& spec, const char* op) {
  return [=](OpCompiler& c) {
    refuse_gradient(c, op);
    const std::shared_ptr<Attention> kernel = c.kernels().make_attention(spec);
    const Ref qkv = c.in(0), cache = c.in(1), y = c.out();
    const Ref log_sums = c.memory({spec.batch, spec.heads, spec.time});
    const Ref scratch = c.scratch(kernel->scratch_bytes());
    c.forward({qkv, y, log_sums, scratch},
              [=](Run& r) { kernel->forward(r.stream, r[qkv], r[y], r[log_sums], r[scratch]); });
    keep(c, spec, qkv, cache);
  };
}

CompileOp compile_step(const AttentionStepSpec& spec, const char* op) {
  return [=](OpCompiler& c) {
    refuse_gradient(c, op);
    const std::shared_ptr<AttentionStep> kernel = c.kernels().make_attention_step(spec);
    const Ref qkv = c.in(0), cache = c.in(1), position = c.in(2), y = c.out();
    const Ref scratch = c.scratch(kernel->scratch_bytes());
    c.forward({qkv, position, cache, y, scratch}, [=](Run& r) {
      kernel->run(r.stream, r[qkv], r[position], r[cache], r[y], r[scratch]);
    });
  };
}

}  // namespace

Value cached_attention(Value qkv, std::int64_t heads, Value cache, Value position) {
  const char* op = "cached_attention";
  check_rank(op, "qkv", qkv, 3);
  check_rank(op, "cache", cache, 5);
  const std::int64_t batch = qkv.shape()[0], time = qkv.shape()[1], width = qkv.shape()[2] / 3,
                     context = cache.shape()[3];
  check(batch > 0 && time > 0 && width > 0 && qkv.shape()[2] == 3 * width, op,
        "qkv wants shape (B, T, 3*C), got ", qkv.shape());
  check(heads > 0 && width % heads == 0, op, heads, " heads do not divide ", width, " columns");
  const AttentionStepSpec step{.batch = batch, .context = context, .heads = heads, .width = width};
  check_shape(op, "cache", cache, step.cache());
  check(time <= context, op, time, " positions; cache ", cache.shape(), " has room for ", context);
  if (!position.valid()) {
    const AttentionSpec spec{
        .batch = batch, .time = time, .heads = heads, .width = width, .training = false};
    return record(op, {qkv, cache}, {batch, time, width}, compile_first(spec, op));
  }
  check_dtype(op, "position", position, DType::i32);
  check(position.shape() == Shape{1} && time == 1, op,
        "wants one position for qkv (B, 1, 3*C), got ", position.shape(), " for ", qkv.shape());
  return record(op, {qkv, cache, position}, {batch, 1, width}, compile_step(step, op));
}

}  // namespace peal
