#include "core/kernels/recurrent_steps.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/device/buffer.h"

namespace peal {
namespace {

constexpr std::size_t kOperandAlignment = 16;  // bytes, that a matrix product may ask for

// One direction of one layer, and where its tensors lie in the saved memory.
struct Chain {
  std::int64_t layer = 0;
  bool reverse = false;
  std::size_t h = 0, c = 0;  // (T+1, B, H): the states between the steps
  std::size_t kept = 0;      // (T, B, kKept*H)
};

// Rows (t, b) of a tensor, the part of one direction.
struct Rows {
  float* data = nullptr;  // nullptr: none
  std::int64_t step_stride = 0, record_stride = 0;
  float* at(std::int64_t step) const {
    return data == nullptr ? nullptr : data + step * step_stride;
  }
};

// The products of a layer's input (R, I), R = T*B rows in the order (t, b).
struct InputProducts {
  InputProducts(Kernels& kernels, const RecurrentSpec& spec, std::int64_t width) {
    const std::int64_t rows = spec.steps * spec.batch, gates = spec.gates() * spec.hidden;
    a = kernels.make_matmul({.m = rows, .n = gates, .k = width, .transpose_b = true, .bias = true});
    if (!spec.training) return;
    dx = kernels.make_matmul({.m = rows, .n = width, .k = gates});
    dw = kernels.make_matmul({.m = gates, .n = width, .k = rows, .transpose_a = true});
  }
  std::unique_ptr<Matmul> a;   // x W_ih^T + b_ih
  std::unique_ptr<Matmul> dx;  // da W_ih
  std::unique_ptr<Matmul> dw;  // da^T x
};

struct HiddenProducts {
  HiddenProducts(Kernels& kernels, const RecurrentSpec& spec) {
    const std::int64_t gates = spec.gates() * spec.hidden;
    u = kernels.make_matmul({.m = spec.batch, .n = gates, .k = spec.hidden});
    if (!spec.training) return;
    dh = kernels.make_matmul({.m = spec.batch, .n = spec.hidden, .k = gates});
    dw = kernels.make_matmul(
        {.m = gates, .n = spec.hidden, .k = spec.steps * spec.batch, .transpose_a = true});
  }
  std::unique_ptr<Matmul> u;   // h W, W = W_hh^T turned once a call
  std::unique_ptr<Matmul> dh;  // du W_hh
  std::unique_ptr<Matmul> dw;  // du^T h
};

// What the calls of one forward or backward share.
struct Call {
  Stream& s;
  const Tensor& lengths;
  std::span<const Tensor> weights;
  std::byte* saved;
  std::byte* scratch;

  Tensor tensor(void* data, const Shape& shape) const {
    return {data, shape, DType::f32, s.device()};
  }
  // Of a chain: 0 weight_ih, 1 weight_hh, 2 bias_ih, 3 bias_hh.
  const Tensor& weight(std::size_t chain, std::size_t which) const {
    return weights[4 * chain + which];
  }
};

class RecurrentBySteps final : public Recurrent {
 public:
  RecurrentBySteps(Kernels& kernels, const RecurrentGates& gates, const RecurrentSpec& spec)
      : kernels_(kernels), gates_(gates), spec_(spec), hidden_(kernels, spec) {
    input_.emplace_back(kernels, spec, spec.inputs);
    if (spec.layers > 1) input_.emplace_back(kernels, spec, width());
    if (spec.cell == RecurrentCell::lstm || spec.cell == RecurrentCell::gru)
      kept_ = 4 * spec.hidden;
    size_pad();
    place_saved();
    place_forward();
    if (spec.training) place_backward();
  }

  std::size_t saved_bytes() const override { return spec_.training ? saved_.size() : 0; }
  std::size_t scratch_bytes() const override { return std::max(forward_.size(), backward_.size()); }

  void forward(Stream& s, const Tensor& x, const Tensor& lengths, const State& first,
               std::span<const Tensor> weights, Tensor y, State last, Tensor saved,
               Tensor scratch) override {
    auto* const area = scratch.as<std::byte>();
    const Call call{s, lengths, weights,
                    spec_.training ? saved.as<std::byte>() : area + saved_in_forward_, area};
    if (spec_.batch_first) turn(call, x, call.tensor(call.saved + x_, by_step(spec_.inputs)));
    for (std::size_t i = 0; i < chains_.size(); ++i) {
      forward_chain(call, i, layer_input(call, chains_[i].layer, x), first, output(call, i, y));
      take_last(call, i, last);
    }
  }

  void backward(Stream& s, const Tensor& x, const Tensor& lengths, const State&,
                std::span<const Tensor> weights, const Tensor&, const Tensor& dy,
                const State& dlast, const Tensor& saved, Tensor dx, State dfirst,
                std::span<const Tensor> dweights, Tensor scratch) override {
    const Call call{s, lengths, weights, saved.as<std::byte>(), scratch.as<std::byte>()};
    // Layers from the last to the first; in each, the forward direction before the reverse.
    for (std::int64_t layer = spec_.layers; layer-- > 0;) {
      const Tensor dinput = layer_gradient(call, layer, dx);
      for (std::int64_t d = 0; d < spec_.directions(); ++d) {
        const auto i = static_cast<std::size_t>(layer * spec_.directions() + d);
        backward_steps(call, i, output_gradient(call, i, dy), dlast, dfirst);
        weight_gradients(call, i, layer_input(call, layer, x), dweights.subspan(4 * i, 4));
        if (!dinput.empty()) input_gradient(call, i, dinput);
      }
    }
    if (spec_.batch_first && !dx.empty()) turn(call, layer_gradient(call, 0, dx), dx);
  }

 private:
  std::int64_t width() const { return spec_.directions() * spec_.hidden; }
  std::int64_t gates() const { return spec_.gates() * spec_.hidden; }
  Shape by_step(std::int64_t columns) const { return {spec_.steps, spec_.batch, columns}; }
  Shape flat(std::int64_t columns) const { return {spec_.steps * spec_.batch, columns}; }
  Shape one_step(std::int64_t columns) const { return {spec_.batch, columns}; }
  // Floats before step `step` of a (T, B, columns).
  std::int64_t before(std::int64_t step, std::int64_t columns) const {
    return step * spec_.batch * columns;
  }
  const InputProducts& products(std::int64_t layer) const { return input_[layer == 0 ? 0 : 1]; }

  // ---- Where everything lies ------------------------------------------------------------------

  void size_pad() {
    for (const InputProducts& p : input_) {
      for (const auto* product : {&p.a, &p.dx, &p.dw}) grow_pad(*product);
    }
    for (const auto* product : {&hidden_.u, &hidden_.dh, &hidden_.dw}) grow_pad(*product);
  }
  void grow_pad(const std::unique_ptr<Matmul>& product) {
    if (product != nullptr) pad_bytes_ = std::max(pad_bytes_, product->scratch_bytes());
  }
  static std::size_t reserve(Arena& arena, std::int64_t floats) {
    return arena.reserve(static_cast<std::size_t>(floats) * sizeof(float));
  }
  // Steps of this many columns begin where a product may not read.
  bool misaligned(std::int64_t columns) const {
    return spec_.batch * columns * static_cast<std::int64_t>(sizeof(float)) %
               static_cast<std::int64_t>(kOperandAlignment) !=
           0;
  }

  void place_saved() {
    const std::int64_t states = (spec_.steps + 1) * spec_.batch * spec_.hidden;
    const std::int64_t rows = spec_.steps * spec_.batch;
    if (spec_.batch_first) x_ = reserve(saved_, rows * spec_.inputs);
    for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
      for (std::int64_t d = 0; d < spec_.directions(); ++d) {
        Chain& chain = chains_.emplace_back(Chain{layer, d == 1});
        chain.h = reserve(saved_, states);
        if (spec_.cell == RecurrentCell::lstm) chain.c = reserve(saved_, states);
        chain.kept = reserve(saved_, (spec_.training ? rows : spec_.batch) * kept_);
      }
      if (layer + 1 < spec_.layers) outputs_.push_back(reserve(saved_, rows * width()));
    }
  }

  void place_forward() {
    const std::int64_t batch = spec_.batch;
    forward_a_ = reserve(forward_, spec_.steps * batch * gates());
    forward_u_ = reserve(forward_, batch * gates());
    forward_w_ = reserve(forward_, spec_.hidden * gates());
    if (misaligned(spec_.hidden)) forward_aligned_ = reserve(forward_, batch * spec_.hidden);
    forward_pad_ = forward_.reserve(pad_bytes_);
    if (!spec_.training) saved_in_forward_ = forward_.reserve(saved_.size());
  }

  void place_backward() {
    const std::int64_t batch = spec_.batch, rows = spec_.steps * batch;
    da_ = reserve(backward_, rows * gates());
    du_ = spec_.cell == RecurrentCell::gru ? reserve(backward_, rows * gates()) : da_;
    product_ = reserve(backward_, batch * spec_.hidden);
    carry_ = reserve(backward_, batch * spec_.hidden);
    dc_ = reserve(backward_, batch * spec_.hidden);
    for (std::size_t& layer : dlayer_) {
      layer = spec_.layers > 1 ? reserve(backward_, rows * width()) : 0;
    }
    if (spec_.batch_first && spec_.needs_dx) dx_ = reserve(backward_, rows * spec_.inputs);
    if (spec_.bidirectional)
      dinput_ = reserve(backward_, rows * std::max(spec_.inputs, spec_.layers > 1 ? width() : 0));
    if (misaligned(spec_.hidden))
      aligned_ = reserve(backward_, std::max(rows * spec_.hidden, batch * gates()));
    pad_ = backward_.reserve(pad_bytes_);
  }

  // `matrix`, or where it begins at an address that a product may not read a copy at `to`.
  Tensor operand(const Call& call, const Tensor& matrix, std::size_t to) const {
    if (reinterpret_cast<std::uintptr_t>(matrix.data) % kOperandAlignment == 0) return matrix;
    const Tensor copy = call.tensor(call.scratch + to, matrix.shape);
    kernels_.copy(call.s, matrix, copy);
    return copy;
  }

  // (B, T, C) <-> (T, B, C)
  void turn(const Call& call, const Tensor& from, const Tensor& to) const {
    constexpr int kPermutation[] = {1, 0, 2};
    kernels_.transpose(call.s, from, kPermutation, to);
  }

  float* state(const Call& call, std::size_t at, std::int64_t number) const {
    return reinterpret_cast<float*>(call.saved + at) + before(number, spec_.hidden);
  }
  // States before and after a step have these numbers.
  static std::int64_t number_before(const Chain& chain, std::int64_t step) {
    return chain.reverse ? step + 1 : step;
  }
  static std::int64_t number_after(const Chain& chain, std::int64_t step) {
    return chain.reverse ? step : step + 1;
  }

  // (R, I)
  Tensor layer_input(const Call& call, std::int64_t layer, const Tensor& x) const {
    if (layer > 0) {
      const std::size_t below = outputs_[static_cast<std::size_t>(layer - 1)];
      return call.tensor(call.saved + below, flat(width()));
    }
    return call.tensor(spec_.batch_first ? call.saved + x_ : x.data, flat(spec_.inputs));
  }

  // The chain's part of a layer's y or dy; `last` is the caller's tensor for the last layer.
  Rows part(std::size_t i, const Tensor& last, std::byte* inner) const {
    const Chain& chain = chains_[i];
    const bool top = chain.layer + 1 == spec_.layers;
    if (top && last.empty()) return {};
    const bool by_record = top && spec_.batch_first;
    float* const data = top ? last.as<float>() : reinterpret_cast<float*>(inner);
    return {data + (chain.reverse ? spec_.hidden : 0), by_record ? width() : spec_.batch * width(),
            by_record ? spec_.steps * width() : width()};
  }
  Rows output(const Call& call, std::size_t i, const Tensor& y) const {
    const auto layer = static_cast<std::size_t>(chains_[i].layer);
    return part(i, y, layer < outputs_.size() ? call.saved + outputs_[layer] : nullptr);
  }
  Rows output_gradient(const Call& call, std::size_t i, const Tensor& dy) const {
    return part(i, dy, call.scratch + dlayer_[(chains_[i].layer + 1) % 2]);
  }

  // The gradient of a layer's input (R, I): dx, or dy of the layer below; empty: not wanted.
  Tensor layer_gradient(const Call& call, std::int64_t layer, const Tensor& dx) const {
    if (layer > 0) return call.tensor(call.scratch + dlayer_[layer % 2], flat(width()));
    if (dx.empty()) return {};
    if (!spec_.batch_first) return call.tensor(dx.data, flat(spec_.inputs));
    return call.tensor(call.scratch + dx_, by_step(spec_.inputs));
  }

  // ---- Forward --------------------------------------------------------------------------------

  void start(const Call& call, const Tensor& given, std::size_t i, float* to) const {
    const Tensor target = call.tensor(to, one_step(spec_.hidden));
    if (given.empty()) return kernels_.fill(call.s, target, 0);
    kernels_.copy(call.s, of_chain(call, given, i), target);
  }
  Tensor of_chain(const Call& call, const Tensor& states, std::size_t i) const {
    return call.tensor(states.as<float>() + before(static_cast<std::int64_t>(i), spec_.hidden),
                       one_step(spec_.hidden));
  }

  void forward_chain(const Call& call, std::size_t i, const Tensor& in, const State& first,
                     const Rows& y) {
    const Chain& chain = chains_[i];
    const Tensor pad = call.tensor(call.scratch + forward_pad_, {});
    const Tensor a = call.tensor(call.scratch + forward_a_, flat(gates()));
    const Tensor u = call.tensor(call.scratch + forward_u_, one_step(gates()));
    const Tensor w = call.tensor(call.scratch + forward_w_, {spec_.hidden, gates()});
    products(chain.layer)
        .a->run(call.s, {.a = in, .b = call.weight(i, 0), .c = a, .bias = call.weight(i, 2)}, pad);
    constexpr int kTurned[] = {1, 0};
    kernels_.transpose(call.s, call.weight(i, 1), kTurned, w);

    const bool lstm = spec_.cell == RecurrentCell::lstm;
    const std::int64_t zeroth = number_before(chain, chain.reverse ? spec_.steps - 1 : 0);
    start(call, first.h, i, state(call, chain.h, zeroth));
    if (lstm) start(call, first.c, i, state(call, chain.c, zeroth));
    for (std::int64_t n = 0; n < spec_.steps; ++n) {
      const std::int64_t t = chain.reverse ? spec_.steps - 1 - n : n;
      GatesForward g = forward_step(call, i, t, y);
      if (n > 0 || !first.h.empty()) {
        const Tensor h = call.tensor(const_cast<float*>(g.h_before), one_step(spec_.hidden));
        hidden_.u->run(call.s, {.a = operand(call, h, forward_aligned_), .b = w, .c = u}, pad);
        g.product = u.as<float>();
      }
      gates_.forward(call.s, spec_.cell, g);
    }
  }

  GatesForward forward_step(const Call& call, std::size_t i, std::int64_t t, const Rows& y) const {
    const Chain& chain = chains_[i];
    const std::int64_t from = number_before(chain, t), to = number_after(chain, t);
    const bool lstm = spec_.cell == RecurrentCell::lstm;
    GatesForward g{.batch = spec_.batch, .hidden = spec_.hidden, .step = t};
    g.lengths = call.lengths.as<std::int32_t>();
    g.a = reinterpret_cast<float*>(call.scratch + forward_a_) + before(t, gates());
    g.bias = call.weight(i, 3).as<float>();
    g.h_before = state(call, chain.h, from);
    g.h = state(call, chain.h, to);
    g.c_before = lstm ? state(call, chain.c, from) : nullptr;
    g.c = lstm ? state(call, chain.c, to) : nullptr;
    if (kept_ > 0)  // without training each step overwrites the last one's
      g.kept = reinterpret_cast<float*>(call.saved + chain.kept) +
               (spec_.training ? before(t, kept_) : 0);
    g.y = y.at(t);
    g.y_stride = y.record_stride;
    return g;
  }

  void take_last(const Call& call, std::size_t i, const State& last) const {
    const Chain& chain = chains_[i];
    const std::int64_t end = number_after(chain, chain.reverse ? 0 : spec_.steps - 1);
    for (const auto& [to, from] : {std::pair{&last.h, chain.h}, std::pair{&last.c, chain.c}}) {
      if (to->empty()) continue;
      kernels_.copy(call.s, call.tensor(state(call, from, end), one_step(spec_.hidden)),
                    of_chain(call, *to, i));
    }
  }

  // ---- Backward -------------------------------------------------------------------------------

  void backward_steps(const Call& call, std::size_t i, const Rows& dy, const State& dlast,
                      const State& dfirst) {
    const Chain& chain = chains_[i];
    const Tensor pad = call.tensor(call.scratch + pad_, {});
    const Shape states = one_step(spec_.hidden);
    const Tensor product = call.tensor(call.scratch + product_, states);
    const Tensor carry = call.tensor(call.scratch + carry_, states);
    const Tensor dc = call.tensor(call.scratch + dc_, states);
    start(call, dlast.h, i, carry.as<float>());
    if (spec_.cell == RecurrentCell::lstm) start(call, dlast.c, i, dc.as<float>());
    for (std::int64_t n = 0; n < spec_.steps; ++n) {
      const std::int64_t t = chain.reverse ? n : spec_.steps - 1 - n;
      GatesBackward g = backward_step(call, i, t, dy);
      g.product = n > 0 ? product.as<float>() : nullptr;
      gates_.backward(call.s, spec_.cell, g);
      if (n + 1 == spec_.steps && dfirst.h.empty()) continue;
      const float* const du = g.du != nullptr ? g.du : g.da;
      const Tensor step = call.tensor(const_cast<float*>(du), one_step(gates()));
      hidden_.dh->run(
          call.s, {.a = operand(call, step, aligned_), .b = call.weight(i, 1), .c = product}, pad);
    }
    if (!dfirst.h.empty())
      kernels_.binary(call.s, BinaryOp::add, carry, product, of_chain(call, dfirst.h, i));
    if (!dfirst.c.empty()) kernels_.copy(call.s, dc, of_chain(call, dfirst.c, i));
  }

  GatesBackward backward_step(const Call& call, std::size_t i, std::int64_t t,
                              const Rows& dy) const {
    const Chain& chain = chains_[i];
    const std::int64_t from = number_before(chain, t), to = number_after(chain, t);
    const bool lstm = spec_.cell == RecurrentCell::lstm;
    GatesBackward g{.batch = spec_.batch, .hidden = spec_.hidden, .step = t};
    g.lengths = call.lengths.as<std::int32_t>();
    if (kept_ > 0) g.kept = reinterpret_cast<float*>(call.saved + chain.kept) + before(t, kept_);
    g.h = state(call, chain.h, to);
    g.h_before = state(call, chain.h, from);
    g.c = lstm ? state(call, chain.c, to) : nullptr;
    g.c_before = lstm ? state(call, chain.c, from) : nullptr;
    g.dy = dy.at(t);
    g.dy_stride = dy.record_stride;
    g.carry = reinterpret_cast<float*>(call.scratch + carry_);
    g.dc = lstm ? reinterpret_cast<float*>(call.scratch + dc_) : nullptr;
    g.da = reinterpret_cast<float*>(call.scratch + da_) + before(t, gates());
    if (du_ != da_) g.du = reinterpret_cast<float*>(call.scratch + du_) + before(t, gates());
    return g;
  }

  void weight_gradients(const Call& call, std::size_t i, const Tensor& in,
                        std::span<const Tensor> dweights) {
    const Chain& chain = chains_[i];
    const Tensor pad = call.tensor(call.scratch + pad_, {});
    const Tensor da = call.tensor(call.scratch + da_, flat(gates()));
    const Tensor du = call.tensor(call.scratch + du_, flat(gates()));
    const Tensor h = call.tensor(state(call, chain.h, number_before(chain, 0)), flat(spec_.hidden));
    products(chain.layer).dw->run(call.s, {.a = da, .b = in, .c = dweights[0]}, pad);
    hidden_.dw->run(call.s, {.a = du, .b = operand(call, h, aligned_), .c = dweights[1]}, pad);
    const Shape row = {1, gates()};
    kernels_.reduce_sum(call.s, da, 1, call.tensor(dweights[2].data, row));
    if (du_ == da_) {
      kernels_.copy(call.s, dweights[2], dweights[3]);
    } else {
      kernels_.reduce_sum(call.s, du, 1, call.tensor(dweights[3].data, row));
    }
  }

  // The forward direction writes what the reverse one adds to.
  void input_gradient(const Call& call, std::size_t i, Tensor dinput) {
    const Chain& chain = chains_[i];
    const Tensor pad = call.tensor(call.scratch + pad_, {});
    const Tensor da = call.tensor(call.scratch + da_, flat(gates()));
    const Tensor to = chain.reverse ? call.tensor(call.scratch + dinput_, dinput.shape) : dinput;
    products(chain.layer).dx->run(call.s, {.a = da, .b = call.weight(i, 0), .c = to}, pad);
    if (chain.reverse) kernels_.accumulate(call.s, to, dinput);
  }

  Kernels& kernels_;
  const RecurrentGates gates_;
  const RecurrentSpec spec_;
  std::vector<InputProducts> input_;  // of the first layer, of the others
  HiddenProducts hidden_;
  std::int64_t kept_ = 0;  // floats a row
  std::size_t pad_bytes_ = 0;

  std::vector<Chain> chains_;         // in the order of the weights
  std::vector<std::size_t> outputs_;  // (T, B, D*H) of each layer but the last
  std::size_t x_ = 0;                 // (T, B, I), of a batch_first x
  Arena saved_, forward_, backward_;
  // Offsets in forward's scratch: (T, B, G*H), (B, G*H), (H, G*H), (B, H).
  std::size_t forward_a_ = 0, forward_u_ = 0, forward_w_ = 0, forward_aligned_ = 0;
  std::size_t forward_pad_ = 0, saved_in_forward_ = 0;
  // In backward's: (T, B, G*H) twice; (B, H) thrice; (T, B, D*H) twice, of odd and even layers;
  // (T, B, I); the reverse direction's share of a layer's input.
  std::size_t da_ = 0, du_ = 0, product_ = 0, carry_ = 0, dc_ = 0, dlayer_[2] = {};
  std::size_t dx_ = 0, dinput_ = 0, aligned_ = 0, pad_ = 0;
};

}  // namespace

std::unique_ptr<Recurrent> make_recurrent_by_steps(Kernels& kernels, const RecurrentGates& gates,
                                                   const RecurrentSpec& spec) {
  return std::make_unique<RecurrentBySteps>(kernels, gates, spec);
}

}  // namespace peal
