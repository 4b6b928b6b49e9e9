#include <algorithm>
#include <memory>

#include "core/graph/op_checks.h"
#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"

namespace peal {
namespace {

constexpr const char* kOp = "recurrent";

// Where the inputs of a node stand; 0 for those that are not given (x has that number).
struct Inputs {
  int weights = 1, count = 0, lengths = 0, h = 0, c = 0;
};

// The tensors behind Refs, in memory that a run does not allocate.
class Tensors {
 public:
  explicit Tensors(std::vector<Ref> refs)
      : refs_(std::move(refs)), tensors_(std::make_shared<std::vector<Tensor>>(refs_.size())) {}
  std::span<const Tensor> of(const Run& r) const {
    for (std::size_t i = 0; i < refs_.size(); ++i) (*tensors_)[i] = r[refs_[i]];
    return *tensors_;
  }

 private:
  std::vector<Ref> refs_;
  std::shared_ptr<std::vector<Tensor>> tensors_;  // a Plan runs on one thread at a time
};

std::vector<Ref> joined(std::vector<Ref> refs, const std::vector<Ref>& more) {
  refs.insert(refs.end(), more.begin(), more.end());
  return refs;
}

void compile_recurrent(OpCompiler& c, RecurrentSpec spec, const Inputs& inputs) {
  spec.training = c.training() && c.needs_backward();
  spec.needs_dx = c.needs_grad(0);
  const std::shared_ptr<Recurrent> kernel = c.kernels().make_recurrent(spec);
  const auto optional = [&](int i) { return i == 0 ? Ref{} : c.in(i); };
  const auto optional_gradient = [&](int i) { return i == 0 ? Ref{} : c.grad_in(i); };
  const bool lstm = spec.cell == RecurrentCell::lstm;
  const Ref x = c.in(0), lengths = optional(inputs.lengths);
  const Ref h = optional(inputs.h), cell = optional(inputs.c);
  const Ref y = c.out(0), last_h = c.out(1), last_c = lstm ? c.out(2) : Ref{};
  std::vector<Ref> w, dw;
  for (int i = 0; i < inputs.count; ++i) w.push_back(c.in(inputs.weights + i));
  const Ref saved = c.bytes(kernel->saved_bytes()), scratch = c.scratch(kernel->scratch_bytes());
  const Tensors weights(w);
  c.forward(joined({x, lengths, h, cell, y, last_h, last_c, saved, scratch}, w), [=](Run& r) {
    kernel->forward(r.stream, r[x], r[lengths], {r[h], r[cell]}, weights.of(r), r[y],
                    {r[last_h], r[last_c]}, r[saved], r[scratch]);
  });
  if (!spec.training) return;
  const Ref dy = c.grad_out(0), dlast_h = c.grad_out(1), dlast_c = lstm ? c.grad_out(2) : Ref{};
  const Ref dx = c.grad_in(0), dh = optional_gradient(inputs.h), dc = optional_gradient(inputs.c);
  for (int i = 0; i < inputs.count; ++i) dw.push_back(c.grad_in_or_temporary(inputs.weights + i));
  const Tensors dweights(dw);
  c.backward(
      joined(joined({x, lengths, h, cell, y, dy, dlast_h, dlast_c, saved, dx, dh, dc, scratch}, w),
             dw),
      [=](Run& r) {
        kernel->backward(r.stream, r[x], r[lengths], {r[h], r[cell]}, weights.of(r), r[y], r[dy],
                         {r[dlast_h], r[dlast_c]}, r[saved], r[dx], {r[dh], r[dc]}, dweights.of(r),
                         r[scratch]);
      });
}

RecurrentSpec checked_spec(Value x, std::span<const Value> weights, const RecurrentOptions& o) {
  check_rank(kOp, "x", x, 3);
  check(o.layers >= 1, kOp, "layers ", o.layers, "; allowed: 1 or more");
  check(o.dropout >= 0 && o.dropout < 1, kOp, "dropout ", o.dropout, "; allowed: [0, 1)");
  const std::int64_t chains = o.layers * (o.bidirectional ? 2 : 1);
  check(static_cast<std::int64_t>(weights.size()) == 4 * chains, kOp, "wants ", 4 * chains,
        " weights, 4 for each layer and direction, got ", weights.size());
  RecurrentSpec spec;
  spec.cell = o.cell;
  spec.layers = o.layers;
  spec.bidirectional = o.bidirectional;
  spec.batch_first = o.batch_first;
  spec.batch = x.shape()[o.batch_first ? 0 : 1];
  spec.steps = x.shape()[o.batch_first ? 1 : 0];
  spec.inputs = x.shape()[2];
  check(spec.steps >= 1, kOp, "x ", x.shape(), " has no steps; allowed: 1 or more");
  check_rank(kOp, "weight_hh_l0", weights[1], 2);
  spec.hidden = weights[1].shape()[1];
  constexpr const char* kNames[] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"};
  const std::vector<Shape> shapes = spec.weights();
  for (std::size_t i = 0; i < weights.size(); ++i)
    check_shape(kOp, kNames[i % 4], weights[i], shapes[i]);
  return spec;
}

Recurrence record_layers(Value x, std::span<const Value> weights, const RecurrentOptions& options,
                         Value lengths, const Recurrence& first) {
  RecurrentSpec spec = checked_spec(x, weights, options);
  const bool lstm = spec.cell == RecurrentCell::lstm;
  std::vector<Value> values = {x};
  values.insert(values.end(), weights.begin(), weights.end());
  Inputs inputs;
  inputs.count = static_cast<int>(weights.size());
  OpTraits traits;
  if (lengths.valid()) {
    check_dtype(kOp, "lengths", lengths, DType::i32);
    check(lengths.shape() == Shape{spec.batch}, kOp, "lengths wants shape ", Shape{spec.batch},
          ", got ", lengths.shape());
    spec.lengths = true;
    inputs.lengths = static_cast<int>(values.size());
    traits.constants = {inputs.lengths};
    values.push_back(lengths);
  }
  if (first.h.valid()) {
    check_shape(kOp, "h", first.h, spec.state());
    spec.initial = true;
    inputs.h = static_cast<int>(values.size());
    values.push_back(first.h);
  }
  check(first.c.valid() == (lstm && first.h.valid()), kOp,
        "c is given if and only if the cell is LSTM and h is given");
  if (first.c.valid()) {
    check_shape(kOp, "c", first.c, spec.state());
    inputs.c = static_cast<int>(values.size());
    values.push_back(first.c);
  }
  std::vector<std::pair<Shape, DType>> outputs = {{spec.y(), DType::f32},
                                                  {spec.state(), DType::f32}};
  if (lstm) outputs.push_back(outputs.back());
  const auto made = x.graph().add_op(
      kOp, values, outputs, [=](OpCompiler& c) { compile_recurrent(c, spec, inputs); },
      std::move(traits));
  return {made[0], made[1], lstm ? made[2] : Value()};
}

}  // namespace

Recurrence recurrent(Value x, std::span<const Value> weights, const RecurrentOptions& options,
                     Value lengths, const Recurrence& first) {
  const std::int64_t directions = checked_spec(x, weights, options).directions();
  if (options.dropout == 0 || options.layers == 1)
    return record_layers(x, weights, options, lengths, first);
  // Each layer is an op of its own, with dropout behind all but the last.
  RecurrentOptions one = options;
  one.layers = 1;
  Recurrence result{x, {}, {}};
  std::vector<Value> h, c;
  for (std::int64_t layer = 0; layer < options.layers; ++layer) {
    const auto part = [&](Value states) {
      return states.valid() ? slice(states, 0, layer * directions, (layer + 1) * directions)
                            : Value();
    };
    const auto own = weights.subspan(static_cast<std::size_t>(4 * layer * directions),
                                     static_cast<std::size_t>(4 * directions));
    result = record_layers(result.y, own, one, lengths, {{}, part(first.h), part(first.c)});
    h.push_back(result.h);
    if (result.c.valid()) c.push_back(result.c);
    if (layer + 1 < options.layers) result.y = dropout(result.y, options.dropout);
  }
  return {result.y, concat(h, 0), c.empty() ? Value() : concat(c, 0)};
}

}  // namespace peal
