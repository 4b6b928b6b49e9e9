#include "launcher/time_algorithms.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "core/base/error.h"
#include "core/base/half_arrays.h"
#include "core/base/random.h"
#include "core/device/buffer.h"
#include "core/device/recording.h"

namespace peal {
namespace {

constexpr std::size_t kMostSets = 8, kMostCalls = 200;

// Numbers in [-1, 1) of any type, again and again.
class Noise {
 public:
  Noise() : values_(kValues + kShift * kMostShifts) {
    for (std::size_t i = 0; i < values_.size(); ++i)
      values_[i] = static_cast<float>(mix64(i) >> 40) * 0x1p-23f - 1;
    bf16_.resize(values_.size());
    f16_.resize(values_.size());
    narrow_bf16(values_.data(), bf16_.data(), values_.size());
    narrow_f16(values_.data(), f16_.data(), values_.size());
  }

  // Those of the next tensor begin elsewhere.
  void fill(Stream& s, const Tensor& x, std::size_t bytes) {
    const std::size_t size = size_of(x.dtype), first = size * kShift * (tensors_++ % kMostShifts);
    const std::byte* const from = bytes_of(x.dtype) + first;
    for (std::size_t at = 0; at < bytes; at += size * kValues)
      copy(s, x.as<std::byte>() + at, from, std::min(size * kValues, bytes - at));
  }

 private:
  static constexpr std::size_t kValues = 1 << 20, kShift = 4099, kMostShifts = 16;

  const std::byte* bytes_of(DType dtype) const {
    if (dtype == DType::f32) return reinterpret_cast<const std::byte*>(values_.data());
    return reinterpret_cast<const std::byte*>((dtype == DType::bf16 ? bf16_ : f16_).data());
  }

  std::vector<float> values_;
  std::vector<std::uint16_t> bf16_, f16_;
  std::size_t tensors_ = 0;
};

// The tensors of a call, in memory of their own.
class OperandSet {
 public:
  explicit OperandSet(const Device& device) : device_(device) {}

  // `layout`: nullptr where it lies by rows. Returns its number.
  int add(const Shape& shape, DType dtype, const Layout* layout = nullptr) {
    const Tensor x{
        .data = nullptr, .shape = shape, .dtype = dtype, .device = device_, .layout = layout};
    const std::size_t bytes = layout_bytes(x);
    places_.push_back({x, arena_.reserve(bytes), bytes});
    return static_cast<int>(places_.size()) - 1;
  }
  // Only where it is there; an empty tensor else.
  int add_if(bool there, const Shape& shape, DType dtype) { return there ? add(shape, dtype) : -1; }

  void fill(Noise& noise, Stream& s) {
    memory_ = Buffer(arena_.size(), device_);
    for (auto& [x, offset, bytes] : places_) {
      x.data = memory_.data() + offset;
      noise.fill(s, x, bytes);
    }
  }

  std::size_t bytes() const { return memory_.size(); }
  Tensor operator[](int number) const {
    return number < 0 ? Tensor() : places_[static_cast<std::size_t>(number)].tensor;
  }

 private:
  struct Place {
    Tensor tensor;
    std::size_t offset, bytes;
  };
  Device device_;
  Arena arena_;
  std::vector<Place> places_;
  Buffer memory_;
};

struct TimedWay {
  int algorithm = 0;
  std::size_t scratch_bytes = 0;
  std::function<void(Stream& s, const OperandSet& of, const Tensor& scratch)> call;
};

// What `make` makes of the numbers from 0, but where it throws Error(input).
template <typename Make>
std::vector<TimedWay> make_ways(int most, const Make& make) {
  std::vector<TimedWay> ways;
  for (int algorithm = 0; algorithm < most; ++algorithm) {
    try {
      ways.push_back(make(algorithm));
    } catch (const Error& error) {
      if (algorithm == 0 || error.kind() != ErrorKind::input) throw;
    }
  }
  return ways;
}

class Race {
 public:
  // `describe` adds the tensors of a set.
  Race(std::vector<TimedWay> ways, const std::function<void(OperandSet&)>& describe,
       const Device& device, const AlgorithmTiming& timing)
      : timing_(timing), stream_(device), ways_(std::move(ways)) {
    make_operands(describe, device);
    std::size_t scratch = 0;
    for (const TimedWay& way : ways_) scratch = std::max(scratch, way.scratch_bytes);
    scratch_ = Buffer(scratch, device);
    calls_ = calls_of_a_turn();
    for (const TimedWay& way : ways_) record(way);
  }

  AlgorithmTimes run() {
    std::vector<std::size_t> all(ways_.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
    const Rounds rounds = run_rounds(all);
    AlgorithmTimes times;
    times.seconds.resize(static_cast<std::size_t>(ways_.back().algorithm) + 1);
    for (const std::size_t way : all)
      times.seconds[static_cast<std::size_t>(ways_[way].algorithm)] = median(rounds[way]);
    std::size_t best = 0;
    double least = 1;
    for (const std::size_t way : all) {
      const double ratio = median_ratio(rounds[way], rounds[0]);
      if (ratio >= least) continue;
      least = ratio;
      best = way;
    }
    if (best > 0 && is_gain(least) && is_gain_again(best)) times.best = ways_[best].algorithm;
    return times;
  }

 private:
  using Rounds = std::vector<std::vector<double>>;  // seconds of a call; by way, by round

  void make_operands(const std::function<void(OperandSet&)>& describe, const Device& device) {
    Noise noise;
    std::size_t bytes = 0;
    do {
      OperandSet& set = sets_.emplace_back(device);
      describe(set);
      set.fill(noise, stream_);
      bytes += set.bytes();
    } while (bytes < timing_.operand_bytes && sets_.size() < kMostSets);
    stream_.synchronize();
  }

  void call(Stream& s, const TimedWay& way, std::size_t set) const {
    Tensor scratch;
    if (way.scratch_bytes > 0) {
      scratch = {
          scratch_.data(), {static_cast<std::int64_t>(way.scratch_bytes)}, DType::u8, s.device()};
    }
    way.call(s, sets_[set % sets_.size()], scratch);
  }

  // The first call of each is a plain one, in which libraries allocate.
  std::size_t calls_of_a_turn() {
    constexpr std::size_t kTried = 3;
    for (const TimedWay& way : ways_) call(stream_, way, 0);
    stream_.synchronize();
    const double begin = timing_.now();
    for (std::size_t i = 0; i < kTried; ++i) call(stream_, ways_[0], i);
    stream_.synchronize();
    const double seconds = (timing_.now() - begin) / kTried;
    if (seconds <= 0) return kMostCalls;
    const double calls = std::ceil(timing_.turn_seconds / seconds);
    return static_cast<std::size_t>(std::clamp(calls, 1.0, double{kMostCalls}));
  }

  void record(const TimedWay& way) {
    recordings_.emplace_back(stream_, "a way", [this, &way](Stream& s) {
      for (std::size_t i = 0; i < calls_; ++i) call(s, way, i);
    });
  }

  // Once more than is counted; there and back by turns, so that each follows the same others.
  Rounds run_rounds(const std::vector<std::size_t>& ways) {
    Rounds rounds(ways_.size());
    for (int round = 0; round <= timing_.rounds; ++round) {
      for (std::size_t i = 0; i < ways.size(); ++i) {
        const std::size_t way = ways[round % 2 == 0 ? i : ways.size() - 1 - i];
        const double begin = timing_.now();
        recordings_[way].replay(stream_);
        stream_.synchronize();
        const double seconds = (timing_.now() - begin) / static_cast<double>(calls_);
        if (round > 0) rounds[way].push_back(seconds);
      }
    }
    return rounds;
  }

  static double median(std::vector<double> values) { return quantile(values, 0.5); }
  static double median_ratio(const std::vector<double>& of, const std::vector<double>& to) {
    std::vector<double> ratios;
    for (std::size_t round = 0; round < of.size(); ++round) ratios.push_back(of[round] / to[round]);
    return median(ratios);
  }
  bool is_gain(double ratio) const { return ratio <= 1 - timing_.least_gain; }
  bool is_gain_again(std::size_t way) {
    const Rounds rounds = run_rounds({0, way});
    return is_gain(median_ratio(rounds[way], rounds[0]));
  }

  const AlgorithmTiming& timing_;
  Stream stream_;
  const std::vector<TimedWay> ways_;
  std::vector<OperandSet> sets_;
  Buffer scratch_;
  std::size_t calls_ = 1;
  std::vector<Recording> recordings_;  // of a turn, by way
};

struct ProductOperands {
  ProductOperands(const MatmulSpec& spec, OperandSet& set) {
    const std::int64_t batch = spec.batch, m = spec.m, n = spec.n, k = spec.k;
    const std::int64_t of_b = spec.broadcast_b ? 1 : batch;
    a = set.add(spec.transpose_a ? Shape{batch, k, m} : Shape{batch, m, k}, spec.operands);
    b = set.add(spec.transpose_b ? Shape{of_b, n, k} : Shape{of_b, k, n}, spec.operands);
    c = set.add({batch, m, n}, spec.result);
    bias = set.add_if(spec.bias, {n}, DType::f32);
    addend = set.add_if(spec.addend, {batch, m, n}, spec.result);
    before = set.add_if(spec.keeps_before || spec.slope, {batch, m, n}, spec.result);
    sums = set.add_if(spec.sums != OperandSums::none, {spec.sums == OperandSums::a ? m : n},
                      DType::f32);
  }
  Matmul::Operands of(const OperandSet& set) const {
    return {set[a], set[b], set[c], set[bias], set[addend], set[before], set[sums]};
  }
  int a, b, c, bias, addend, before, sums;
};

struct ConvOperands {
  ConvOperands(const Conv2dSpec& spec, ConvPass pass, const Conv2d& kernel, OperandSet& set) {
    const bool has_x = pass != ConvPass::backward_data, has_w = pass != ConvPass::backward_weights;
    if (has_x) x = set.add(spec.x, spec.stored, spec.x_layout);
    if (has_w) w = set.add(spec.w, spec.stored, kernel.w_layout());
    y = set.add(spec.y(), spec.stored, kernel.y_layout());
    if (!has_x) dx = set.add(spec.x, spec.stored, spec.x_layout);
    if (!has_w) dw = set.add(spec.w, DType::f32);
    b = set.add_if(has_x && spec.bias, {spec.w[0]}, DType::f32);
  }
  void run(ConvPass pass, Conv2d& kernel, Stream& s, const OperandSet& of,
           const Tensor& scratch) const {
    switch (pass) {
      case ConvPass::forward:
        kernel.forward(s, of[x], of[w], of[b], of[y], scratch);
        break;
      case ConvPass::backward_data:
        kernel.backward_data(s, of[y], of[w], of[dx], scratch);
        break;
      case ConvPass::backward_weights:
        kernel.backward_weights(s, of[x], of[y], of[dw], of[b], scratch);
        break;
    }
  }
  int x = -1, w = -1, y = -1, b = -1, dx = -1, dw = -1;  // y and b: of backward their gradients
};

}  // namespace

AlgorithmTimes time_algorithms(const MatmulSpec& product, const MakeProduct& make,
                               const Device& device, const AlgorithmTiming& timing) {
  OperandSet numbers(device);
  const ProductOperands operands(product, numbers);
  const int kinds = product.sums == OperandSums::none ? 1 : 2;
  std::vector<TimedWay> ways = make_ways(kinds * timing.most_ways, [&](int algorithm) {
    MatmulSpec spec = product;
    spec.algorithm = algorithm;
    const std::shared_ptr<Matmul> kernel = make(spec);
    return TimedWay{algorithm, kernel->scratch_bytes(),
                    [=](Stream& s, const OperandSet& set, const Tensor& scratch) {
                      kernel->run(s, operands.of(set), scratch);
                    }};
  });
  const auto describe = [&](OperandSet& set) { ProductOperands(product, set); };
  return Race(std::move(ways), describe, device, timing).run();
}

AlgorithmTimes time_algorithms(const Conv2dSpec& convolution, ConvPass pass,
                               const MakeConvolution& make, const Device& device,
                               const AlgorithmTiming& timing) {
  const std::unique_ptr<Conv2d> first = make(convolution);  // all ways have its layouts
  OperandSet numbers(device);
  const ConvOperands operands(convolution, pass, *first, numbers);
  std::vector<TimedWay> ways = make_ways(timing.most_ways, [&](int algorithm) {
    Conv2dSpec spec = convolution;
    spec.algorithms[static_cast<int>(pass)] = algorithm;
    const std::shared_ptr<Conv2d> kernel = make(spec);
    return TimedWay{algorithm, kernel->scratch_bytes(),
                    [=](Stream& s, const OperandSet& set, const Tensor& scratch) {
                      operands.run(pass, *kernel, s, set, scratch);
                    }};
  });
  const auto describe = [&](OperandSet& set) { ConvOperands(convolution, pass, *first, set); };
  return Race(std::move(ways), describe, device, timing).run();
}

}  // namespace peal
