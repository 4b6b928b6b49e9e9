#include "launcher/time_product.h"

#include <algorithm>
#include <cmath>

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
  void fill(Stream& s, const Tensor& x) {
    const std::size_t size = size_of(x.dtype), first = size * kShift * (tensors_++ % kMostShifts);
    const std::byte* const from = bytes_of(x.dtype) + first;
    for (std::size_t at = 0; at < x.bytes(); at += size * kValues)
      copy(s, x.as<std::byte>() + at, from, std::min(size * kValues, x.bytes() - at));
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

// The tensors of a product, in memory of their own.
class OperandSet {
 public:
  OperandSet(const MatmulSpec& spec, const Device& device, Noise& noise, Stream& s) {
    const std::int64_t batch = spec.batch, m = spec.m, n = spec.n, k = spec.k;
    Arena arena;
    const auto add = [&](Tensor& x, bool there, const Shape& shape, DType dtype) {
      if (!there) return;
      x = {.data = nullptr, .shape = shape, .dtype = dtype, .device = device};
      places_.push_back({&x, arena.reserve(x.bytes())});
    };
    const std::int64_t of_b = spec.broadcast_b ? 1 : batch;
    add(of_.a, true, spec.transpose_a ? Shape{batch, k, m} : Shape{batch, m, k}, spec.operands);
    add(of_.b, true, spec.transpose_b ? Shape{of_b, n, k} : Shape{of_b, k, n}, spec.operands);
    add(of_.c, true, {batch, m, n}, spec.result);
    add(of_.bias, spec.bias, {n}, DType::f32);
    add(of_.addend, spec.addend, {batch, m, n}, spec.result);
    add(of_.before, spec.keeps_before || spec.slope, {batch, m, n}, spec.result);
    add(of_.sums, spec.sums != OperandSums::none, {spec.sums == OperandSums::a ? m : n},
        DType::f32);
    memory_ = Buffer(arena.size(), device);
    for (const auto& [x, offset] : places_) {
      x->data = memory_.data() + offset;
      noise.fill(s, *x);
    }
  }
  OperandSet(const OperandSet&) = delete;
  OperandSet& operator=(const OperandSet&) = delete;

  const Matmul::Operands& operator*() const { return of_; }
  std::size_t bytes() const { return memory_.size(); }

 private:
  struct Place {
    Tensor* tensor;
    std::size_t offset;
  };
  Matmul::Operands of_;
  std::vector<Place> places_;
  Buffer memory_;
};

class Race {
 public:
  Race(const MatmulSpec& product, const MakeProduct& make, const Device& device,
       const ProductTiming& timing)
      : timing_(timing), stream_(device) {
    make_ways(product, make);
    make_operands(product, device);
    std::size_t scratch = 0;
    for (const Way& way : ways_) scratch = std::max(scratch, way.product->scratch_bytes());
    scratch_ = Buffer(scratch, device);
    calls_ = calls_of_a_turn();
    for (const Way& way : ways_) record(*way.product);
  }

  ProductTimes run() {
    std::vector<std::size_t> all(ways_.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
    const Rounds rounds = run_rounds(all);
    ProductTimes times;
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
  struct Way {
    int algorithm;
    std::unique_ptr<Matmul> product;
  };
  using Rounds = std::vector<std::vector<double>>;  // seconds of a call; by way, by round

  void make_ways(MatmulSpec product, const MakeProduct& make) {
    const int kinds = product.sums == OperandSums::none ? 1 : 2;
    for (product.algorithm = 0; product.algorithm < kinds * timing_.most_ways;
         ++product.algorithm) {
      try {
        ways_.push_back({product.algorithm, make(product)});
      } catch (const Error& error) {
        if (product.algorithm == 0 || error.kind() != ErrorKind::input) throw;
      }
    }
  }

  void make_operands(const MatmulSpec& product, const Device& device) {
    Noise noise;
    std::size_t bytes = 0;
    do {
      sets_.push_back(std::make_unique<OperandSet>(product, device, noise, stream_));
      bytes += sets_.back()->bytes();
    } while (bytes < timing_.operand_bytes && sets_.size() < kMostSets);
    stream_.synchronize();
  }

  void call(Stream& s, Matmul& way, std::size_t set) const {
    const std::size_t bytes = way.scratch_bytes();
    Tensor scratch;
    if (bytes > 0)
      scratch = {scratch_.data(), {static_cast<std::int64_t>(bytes)}, DType::u8, s.device()};
    way.run(s, **sets_[set % sets_.size()], scratch);
  }

  // The first call of each is a plain one, in which libraries allocate.
  std::size_t calls_of_a_turn() {
    constexpr std::size_t kTried = 3;
    for (const Way& way : ways_) call(stream_, *way.product, 0);
    stream_.synchronize();
    const double begin = timing_.now();
    for (std::size_t i = 0; i < kTried; ++i) call(stream_, *ways_[0].product, i);
    stream_.synchronize();
    const double seconds = (timing_.now() - begin) / kTried;
    if (seconds <= 0) return kMostCalls;
    const double calls = std::ceil(timing_.turn_seconds / seconds);
    return static_cast<std::size_t>(std::clamp(calls, 1.0, double{kMostCalls}));
  }

  void record(Matmul& way) {
    recordings_.emplace_back(stream_, "a product", [this, &way](Stream& s) {
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

  const ProductTiming& timing_;
  Stream stream_;
  std::vector<Way> ways_;
  std::vector<std::unique_ptr<OperandSet>> sets_;
  Buffer scratch_;
  std::size_t calls_ = 1;
  std::vector<Recording> recordings_;  // of a turn, by way
};

}  // namespace

ProductTimes time_product(const MatmulSpec& product, const MakeProduct& make, const Device& device,
                          const ProductTiming& timing) {
  return Race(product, make, device, timing).run();
}

}  // namespace peal
