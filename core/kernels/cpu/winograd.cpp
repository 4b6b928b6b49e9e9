// A pass takes some tiles at a time: it transforms their patches, multiplies at each of a patch's
// 36 places a matrix (tiles, channels) with the transformed weights, and transforms the products
// back, so that the 36 matrices stay in the caches.
#include "core/kernels/cpu/winograd.h"

#include <algorithm>

#include "core/device/buffer.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"
#include "core/kernels/cpu/winograd_tiles.h"

namespace peal::cpu {
namespace {

using namespace winograd;

Plane plane_of(const Shape& shape) {
  return {shape[1], shape[2], shape[3]};
}

// At least of the tiles of one time, so that a product is worth its panel of weights.
constexpr std::int64_t kFewestFloats = std::int64_t{1} << 18;

// Equal shares that are no larger than the weights, which are read again for each.
std::int64_t tiles_at_once(const Plane& in, const Plane& out, std::int64_t count) {
  const std::int64_t most =
      std::max(kFewestFloats / kPlaces, in.channels * out.channels) / (in.channels + out.channels);
  const std::int64_t times = (count + most - 1) / most, share = (count + times - 1) / times;
  return std::min((share + kRows - 1) / kRows * kRows, count);
}

// What the passes have in common: tiles of `out` on patches of `in`.
struct Steps {
  Steps(std::int64_t batch, const Plane& from, const Plane& to)
      : in(from),
        out(to),
        tiles(batch, to),
        some(tiles_at_once(from, to, tiles.count)),
        of_in(some, from.channels),
        of_out(some, to.channels) {}

  // f(range) for all tiles.
  template <class F>
  void for_each(F f) const {
    for (std::int64_t first = 0; first < tiles.count; first += some)
      f(Range{first, std::min(some, tiles.count - first)});
  }

  Plane in, out;
  Tiles tiles;
  std::int64_t some;  // tiles at a time
  Matrices of_in, of_out;
};

// y = act(conv(x, w) + bias), or dx, which is a convolution of dy with turned windows. Scratch
// memory holds weights, inputs and products.
struct Convolution : Steps {
  Convolution(std::int64_t batch, const Plane& from, const Plane& to)
      : Steps(batch, from, to), weights{from.channels, to.channels} {}

  std::int64_t floats() const { return weights.floats() + of_in.floats() + of_out.floats(); }

  void run(const float* x, const std::int64_t (&padding)[2], const float* w, bool turned,
           const float* bias, bool relu, float* y, float* scratch) const {
    float *const u = scratch, *const v = u + weights.floats(), *const m = v + of_in.floats();
    transform_weights(w, turned, weights, u);
    for_each([&](const Range& range) {
      spread_inputs(in, x, tiles, range, padding, of_in, v);
      for (int place = 0; place < kPlaces; ++place) {
        multiply(range.count, weights.columns, weights.rows,
                 {v + place * of_in.step, of_in.pitch, 1},
                 {u + place * weights.step(), kColumns, weights.rows * kColumns},
                 m + place * of_out.step, of_out.pitch, false);
      }
      collect(out, y, tiles, range, of_out, m, bias, relu);
    });
  }

  Panels weights;
};

// dw. Scratch memory holds gradients of the transformed weights, inputs and gradients of outputs.
struct WeightGradient : Steps {
  WeightGradient(std::int64_t batch, const Plane& from, const Plane& to)
      : Steps(batch, from, to), weights(to.channels, from.channels) {}

  std::int64_t floats() const { return weights.floats() + of_in.floats() + of_out.floats(); }

  void run(const float* x, const std::int64_t (&padding)[2], const float* dy, float* dw,
           float* scratch) const {
    float *const u = scratch, *const v = u + weights.floats(), *const d = v + of_in.floats();
    for_each([&](const Range& range) {
      spread_inputs(in, x, tiles, range, padding, of_in, v);
      spread_gradients(out, dy, tiles, range, of_out, d);
      for (int place = 0; place < kPlaces; ++place) {
        multiply(out.channels, in.channels, range.count, {d + place * of_out.step, 1, of_out.pitch},
                 {v + place * of_in.step, of_in.pitch, kColumns}, u + place * weights.step,
                 weights.pitch, range.first > 0);
      }
    });
    collect_weights(out.channels, in.channels, weights, u, dw);
  }

  Matrices weights;
};

// x and dx in blocks of 8 channels.
class WinogradConv2d final : public Conv2d {
 public:
  WinogradConv2d(const Conv2dSpec& spec, const Layout* y_layout)
      : spec_(spec),
        y_layout_(y_layout),
        forward_(spec.x[0], plane_of(spec.x), plane_of(spec.y())),
        backward_data_(spec.x[0], plane_of(spec.y()), plane_of(spec.x)),
        backward_weights_(spec.x[0], plane_of(spec.x), plane_of(spec.y())) {}

  const Layout* y_layout() const override { return y_layout_; }

  std::size_t scratch_bytes() const override {
    std::int64_t floats = forward_.floats();
    if (spec_.training) floats = std::max(floats, backward_weights_.floats());
    if (spec_.training && spec_.needs_dx) floats = std::max(floats, backward_data_.floats());
    return static_cast<std::size_t>(floats) * sizeof(float);
  }

  void forward(Stream&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
               Tensor scratch) override {
    forward_.run(x.as<float>(), spec_.padding, w.as<float>(), false,
                 spec_.bias ? b.as<float>() : nullptr, spec_.activation == Activation::relu,
                 y.as<float>(), scratch.as<float>());
  }

  void backward_data(Stream&, const Tensor& dy, const Tensor& w, Tensor dx,
                     Tensor scratch) override {
    const std::int64_t padding[2] = {kTaps - 1 - spec_.padding[0], kTaps - 1 - spec_.padding[1]};
    backward_data_.run(dy.as<float>(), padding, w.as<float>(), true, nullptr, false, dx.as<float>(),
                       scratch.as<float>());
  }

  void backward_weights(Stream&, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                        Tensor scratch) override {
    backward_weights_.run(x.as<float>(), spec_.padding, dy.as<float>(), dw.as<float>(),
                          scratch.as<float>());
    if (spec_.bias) sum_channels(spec_.x[0], plane_of(spec_.y()), dy.as<float>(), db.as<float>());
  }

 private:
  Conv2dSpec spec_;
  const Layout* y_layout_;
  Convolution forward_, backward_data_;
  WeightGradient backward_weights_;
};

// The same where x lies otherwise: it is copied into scratch memory, and dx from there.
class ReorderedConv2d final : public Conv2d {
 public:
  ReorderedConv2d(const Conv2dSpec& spec, const Layout* blocks, std::unique_ptr<Conv2d> conv)
      : shape_(spec.x),
        blocks_(blocks),
        conv_(std::move(conv)),
        there_(CpuKernels().make_reorder(spec.x, {spec.x_layout}, {blocks})),
        back_(CpuKernels().make_reorder(spec.x, {blocks}, {spec.x_layout})),
        own_bytes_(align_up(
            std::max({conv_->scratch_bytes(), there_->scratch_bytes(), back_->scratch_bytes()}))) {}

  const Layout* y_layout() const override { return conv_->y_layout(); }
  std::size_t scratch_bytes() const override { return own_bytes_ + blocks_->bytes; }

  void forward(Stream& s, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
               Tensor scratch) override {
    const Tensor copy = copy_in(scratch);
    there_->run(s, x, copy, scratch);
    conv_->forward(s, copy, w, b, y, scratch);
  }

  void backward_data(Stream& s, const Tensor& dy, const Tensor& w, Tensor dx,
                     Tensor scratch) override {
    const Tensor copy = copy_in(scratch);
    conv_->backward_data(s, dy, w, copy, scratch);
    back_->run(s, copy, dx, scratch);
  }

  void backward_weights(Stream& s, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                        Tensor scratch) override {
    const Tensor copy = copy_in(scratch);
    there_->run(s, x, copy, scratch);
    conv_->backward_weights(s, copy, dy, dw, db, scratch);
  }

 private:
  // x or dx in blocks, behind what the convolution needs.
  Tensor copy_in(const Tensor& scratch) const {
    Tensor copy;
    copy.shape = shape_;
    copy.layout = blocks_;
    copy.data = scratch.as<std::byte>() + own_bytes_;
    return copy;
  }

  Shape shape_;
  const Layout* blocks_;
  std::unique_ptr<Conv2d> conv_;
  std::unique_ptr<Reorder> there_, back_;
  std::size_t own_bytes_;
};

const Layout* blocks_of(const Shape& shape) {
  return intern_layout(shape, {shape.vector(), DataType::f32, dnnl::memory::format_tag::nChw8c});
}

}  // namespace

bool suits_winograd(const Conv2dSpec& spec) {
  const Shape y = spec.y();
  for (int i = 0; i < 2; ++i) {
    const bool three = spec.w[2 + i] == kTaps && spec.dilation[i] == 1 && spec.padding[i] <= 1;
    if (!three || spec.stride[i] != 1 || y[2 + i] < kTile) return false;
  }
  return spec.x[0] > 0 && spec.groups == 1 && spec.w[0] >= 64 && spec.w[1] >= 64;
}

std::unique_ptr<Conv2d> make_winograd(const Conv2dSpec& spec) {
  const bool whole = spec.w[0] % kColumns == 0 && spec.w[1] % kColumns == 0;
  if (!has_avx2() || !whole || spec.stored != DType::f32 || !suits_winograd(spec)) return nullptr;
  auto conv = std::make_unique<WinogradConv2d>(spec, blocks_of(spec.y()));
  const Layout* blocks = blocks_of(spec.x);
  if (spec.x_layout == blocks) return conv;
  return std::make_unique<ReorderedConv2d>(spec, blocks, std::move(conv));
}

}  // namespace peal::cpu
