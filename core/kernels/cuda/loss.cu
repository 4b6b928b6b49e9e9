// A record of weight 0 is not looked at, so that whatever fills it counts nowhere. Sums over
// records are taken in f64: by one block, or by blocks for parts of fixed size whose sums wait in
// the stream's workspace.
#include <algorithm>
#include <type_traits>

#include "core/kernels/cuda/cross_entropy.cuh"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/rows.cuh"

namespace peal::cuda {
namespace {

constexpr int kSumBlock = 1024;  // threads of a block that sums

// The fewest of a part that is not the only one.
constexpr std::int64_t kLossesOfPart = 2048, kPairsOfPart = 16384;

// How `items` are shared by blocks that sum: `each` of them, but for the last.
struct Parts {
  std::int64_t each, count;
  static Parts of(std::int64_t items, std::int64_t least) {
    const std::int64_t each = std::max(least, ceil_div(items, kMostParts));
    return {each, std::max<std::int64_t>(ceil_div(items, each), 1)};
  }
};

// Where a block's sum goes: to its part, or to the loss where it is the only block.
struct LossSum {
  double* parts;
  float* loss;
  double divisor;
  __device__ void put(double sum) const {
    if (gridDim.x > 1) {
      parts[blockIdx.x] = sum;
    } else {
      *loss = static_cast<float>(sum / divisor);
    }
  }
};

// ---- Cross entropy of classes ---------------------------------------------------------------

// saved (rows, 2): of each row the largest logit and 1 / sum(exp(x - largest)).
template <class Part, typename T>
__global__ void __launch_bounds__(Part::kBlock)
    cross_entropy_rows(const T* logits, float* saved, RowsOf of) {
  const Part part(of);
  if (part.outside()) return;
  const auto row = part.read(logits + part.offset());
  const float largest = part.max(row);
  const double total = part.sum([=](float v) { return exp_below(v - largest); }, row);
  if (!part.first()) return;
  saved[2 * part.row] = largest;
  saved[2 * part.row + 1] = static_cast<float>(1 / total);
}

__device__ inline float probability(float x, float largest, float inverse) {
  return static_cast<float>(exp_below(x - largest) * inverse);
}

Divider rows_of_record(std::int64_t rows, const Tensor& weight) {
  return Divider(rows / std::max<std::int64_t>(weight.numel(), 1));
}

LabelledRows labelled(const Tensor& logits, const Tensor& labels, const Tensor& weight,
                      const Tensor& dloss) {
  return {labels.as<std::int32_t>(), weight.as<float>(), dloss.as<float>(),
          rows_of_record(logits.shape[0], weight)};
}

constexpr int kHalvesBlock = 256;  // threads that share a long row of halves

// Whether a row of halves is worth a block. Where it is not, a pack belongs to one row or goes over
// into the next; padded rows begin at packs and are always worth it.
bool are_long(const Tensor& rows) {
  constexpr std::int64_t kLong = 1024;
  return rows.dtype != DType::f32 && (rows.layout != nullptr || rows.shape[1] > kLong);
}

// launch(kernel's width): packs where they are aligned.
template <typename T, class Launch>
void for_width(bool wide, const Launch& launch) {
  if (wide) return launch(std::integral_constant<int, kWideOf<T>>());
  launch(std::integral_constant<int, 1>());
}

template <typename T>
void cross_entropy(Stream& s, const Tensor& logits, const Tensor& saved) {
  const std::int64_t rows = logits.shape[0], classes = logits.shape[1];
  if constexpr (!std::is_same_v<T, float>) {
    if (are_long(logits)) {
      if (rows * classes == 0) return;
      const OnStream on(s);
      for_width<T>(aligned(logits.data), [&]<int kWidth>(std::integral_constant<int, kWidth>) {
        cross_entropy_of_halves<kWidth, kHalvesBlock, T>
            <<<blocks_for(rows, 1), kHalvesBlock, 0, on.stream>>>(logits.as<T>(), saved.as<float>(),
                                                                  classes, row_pitch(logits));
      });
      return check_launch("softmax_cross_entropy");
    }
  }
  for_part<T>(classes, [&]<class Part>(PartTag<Part>) {
    launch_rows<Part, T>(s, "softmax_cross_entropy", cross_entropy_rows<Part, T>, rows, classes, 1,
                         aligned(logits.data), logits.as<T>(), saved.as<float>());
  });
}

// The losses of rows, made of what is read of each.
template <typename T>
struct SavedLosses {
  const T* logits;
  const std::int32_t* labels;
  const float* saved;
  std::int64_t pitch;

  struct Read {
    float largest, inverse, at_label;
    __device__ double loss() const { return loss_of(largest, inverse, at_label); }
  };
  __device__ Read read(std::int64_t row) const {
    return {saved[2 * row], saved[2 * row + 1], widen(logits[row * pitch + labels[row]])};
  }
};

struct LossesThere {
  const double* losses;

  struct Read {
    double there;
    __device__ double loss() const { return there; }
  };
  __device__ Read read(std::int64_t row) const { return {losses[row]}; }
};

template <class Losses>
__global__ void __launch_bounds__(kSumBlock)
    sum_losses(Losses losses, const float* weight, std::int64_t rows, Divider of_record,
               std::int64_t each, LossSum to) {
  constexpr int kAtOnce = 4;
  const std::int64_t begin = blockIdx.x * each, end = min(begin + each, rows);
  double sum = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kAtOnce * kSumBlock) {
    float weights[kAtOnce];
    typename Losses::Read of_rows[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const std::int64_t r = i + k * kSumBlock;
      weights[k] = r < end ? weight[of_record.divide(r)] : 0;
      if (weights[k] != 0) of_rows[k] = losses.read(r);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (weights[k] != 0) sum += weights[k] * of_rows[k].loss();
    }
  }
  sum = block_reduce<kSumBlock>(sum);
  if (threadIdx.x == 0) to.put(sum);
}

// ---- Sums over few values -------------------------------------------------------------------

struct BinaryLoss {
  __device__ double operator()(double x, double t) const {
    return fmax(x, 0.0) - t * x + log1p(exp(-fabs(x)));
  }
};

struct SquaredDistance {
  __device__ double operator()(double x, double t) const { return (x - t) * (x - t); }
};

// The sum of weight * f(x, t) over all elements of all records
template <int kWidth, class F>
__global__ void __launch_bounds__(kSumBlock)
    sum_pairs(const float* x, const float* t, const float* weight, std::int64_t items,
              Divider packs, std::int64_t each, bool wide, F f, LossSum to) {
  constexpr int kAtOnce = 4;
  const std::int64_t begin = blockIdx.x * each, end = min(begin + each, items);
  double sum = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kAtOnce * kSumBlock) {
    Pack<kWidth> a[kAtOnce], b[kAtOnce];
    float weights[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const std::int64_t item = i + k * kSumBlock;
      weights[k] = 0;
      if (item >= end) continue;
      a[k] = read_pack<kWidth>(x + item * kWidth, wide);
      b[k] = read_pack<kWidth>(t + item * kWidth, wide);
      weights[k] = weight[packs.divide(item)];
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (weights[k] == 0) continue;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        sum += static_cast<double>(weights[k]) * f(a[k].of[e], b[k].of[e]);
      }
    }
  }
  sum = block_reduce<kSumBlock>(sum);
  if (threadIdx.x == 0) to.put(sum);
}

LossSum loss_sum(Stream& s, Tensor loss, double divisor) {
  return {parts_of(s), loss.as<float>(), divisor};
}

void add_up(const OnStream& on, const Parts& parts, const LossSum& to) {
  if (parts.count > 1) add_parts(on, to.parts, 1, parts.count, 1, to.divisor, to.loss);
}

// The mean over a record's rows.
template <class Losses>
void sum_rows(Stream& s, const Losses& losses, std::int64_t rows, const Tensor& weight,
              Tensor loss) {
  const OnStream on(s);
  const Divider of_record = rows_of_record(rows, weight);
  const Parts parts = Parts::of(rows, kLossesOfPart);
  const LossSum to = loss_sum(s, loss, static_cast<double>(of_record.value()));
  sum_losses<<<blocks_for(parts.count, 1), kSumBlock, 0, on.stream>>>(
      losses, weight.as<float>(), rows, of_record, parts.each, to);
  check_launch("softmax_cross_entropy, the sum");
  add_up(on, parts, to);
}

template <class F>
void sum_pairs(Stream& s, const char* name, const Tensor& x, const Tensor& t, const Tensor& weight,
               std::int64_t records, std::int64_t features, F f, Tensor loss) {
  const OnStream on(s);
  const bool wide = aligned(x.data) && aligned(t.data);
  const auto launch = [&](auto kernel, int width) {
    const std::int64_t items = records * (features / width);
    const Parts parts = Parts::of(items, kPairsOfPart);
    const LossSum to = loss_sum(s, loss, static_cast<double>(features));
    kernel<<<blocks_for(parts.count, 1), kSumBlock, 0, on.stream>>>(
        x.as<float>(), t.as<float>(), weight.as<float>(), items, Divider(features / width),
        parts.each, wide, f, to);
    check_launch(name);
    add_up(on, parts, to);
  };
  if (features % kWide == 0) {
    launch(sum_pairs<kWide, F>, kWide);
  } else {
    launch(sum_pairs<1, F>, 1);
  }
}

// ---- Gradients, element by element ----------------------------------------------------------

// gradient(weight, row, column, x, t) for rows of records whose weight is not 0; the others get 0.
struct CrossEntropyGradient {
  static constexpr int kIn = 1;  // logits
  LabelledRows rows;
  const float* saved;
  __device__ std::int64_t record(std::int64_t row) const { return rows.of_record.divide(row); }
  __device__ float operator()(float weight, std::int64_t row, std::int64_t c,
                              const float* v) const {
    const float p = probability(v[0], saved[2 * row], saved[2 * row + 1]);
    return rows.factor(weight) * (c == rows.labels[row] ? p - 1 : p);
  }
};

template <typename T>
void gradient_of_halves(Stream& s, const Tensor& logits, const Tensor& saved,
                        const LabelledRows& labelled, const Tensor& dlogits) {
  const std::int64_t rows = logits.shape[0], classes = logits.shape[1];
  if (rows * classes == 0) return;
  const OnStream on(s);
  const bool wide = aligned(logits.data) && aligned(dlogits.data);
  for_width<T>(wide, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
    cross_entropy_gradient_of_halves<kWidth, kHalvesBlock, T>
        <<<blocks_for(rows, 1), kHalvesBlock, 0, on.stream>>>(logits.as<T>(), saved.as<float>(),
                                                              labelled, classes, row_pitch(logits),
                                                              dlogits.as<T>());
  });
  check_launch("softmax_cross_entropy_backward");
}

// ---- Cross entropy of classes and its gradient, of rows that are read once ------------------

// As cross_entropy_rows and CrossEntropyGradient. losses (rows): of those whose weight is not 0.
template <class Part, typename T>
__global__ void __launch_bounds__(Part::kBlock)
    cross_entropy_with_gradient(const T* logits, double* losses, LabelledRows rows, T* out,
                                RowsOf of) {
  const Part part(of);
  if (part.outside()) return;
  T* const to = out + part.offset();
  const float w = rows.weight_of(part.row);
  if (w == 0) {
    part.each([&](int, std::int64_t c) {
      write_pack<Part::kWidth>(to + c, Pack<Part::kWidth>{}, of.wide);
    });
    return;
  }
  const T* const from = logits + part.offset();
  const auto row = part.read(from);
  const float largest = part.max(row);
  const double total = part.sum([=](float v) { return exp_below(v - largest); }, row);
  const float inverse = static_cast<float>(1 / total), factor = rows.factor(w);
  const auto label = rows.labels[part.row];
  const bool here = part.has(label);  // by whom it is written, too
  const float at_label = here ? widen(from[label]) : 0;
  part.write(
      to, [=](float v) { return factor * probability(v, largest, inverse); }, row);
  if (!here) return;
  to[label] = rounded<T>(factor * (probability(at_label, largest, inverse) - 1));
  losses[part.row] = loss_of(largest, inverse, at_label);
}

template <typename T>
void with_gradient(Stream& s, const Tensor& logits, double* losses, const LabelledRows& labelled,
                   const Tensor& dlogits) {
  const std::int64_t rows = logits.shape[0], classes = logits.shape[1];
  const bool wide = aligned(logits.data) && aligned(dlogits.data);
  const char* const name = "softmax_cross_entropy_with_gradient";
  if constexpr (!std::is_same_v<T, float>) {
    if (are_long(logits)) {
      if (rows * classes == 0) return;
      const OnStream on(s);
      for_width<T>(wide, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
        const auto kernel = cross_entropy_with_gradient_of_halves<kWidth, kHalvesBlock, T>;
        const std::size_t room =
            room_for_rows(reinterpret_cast<const void*>(kernel), s,
                          static_cast<std::size_t>(classes + kWidth) * sizeof(T));
        kernel<<<blocks_for(rows, 1), kHalvesBlock, room, on.stream>>>(
            logits.as<T>(), losses, labelled, classes, row_pitch(logits), room > 0,
            dlogits.as<T>());
      });
      return check_launch(name);
    }
  }
  for_part<T>(classes, [&]<class Part>(PartTag<Part>) {
    launch_rows<Part, T>(s, name, cross_entropy_with_gradient<Part, T>, rows, classes, 1, wide,
                         logits.as<T>(), losses, labelled, dlogits.as<T>());
  });
}

// Losses of which a row is a record.
struct RowGradient {
  __device__ std::int64_t record(std::int64_t row) const { return row; }
};

struct BinaryGradient : RowGradient {
  static constexpr int kIn = 2;  // logits, targets
  const float* dloss;
  __device__ float operator()(float weight, std::int64_t, std::int64_t, const float* v) const {
    const double gap = 1.0 / (1.0 + exp(-static_cast<double>(v[0]))) - v[1];
    return static_cast<float>(static_cast<double>(*dloss) * weight * gap);
  }
};

struct SquaredGradient : RowGradient {
  static constexpr int kIn = 2;  // x, targets
  const float* dloss;
  float features;
  __device__ float operator()(float weight, std::int64_t, std::int64_t, const float* v) const {
    const float factor = 2.0f * *dloss * weight / features;
    return factor * (v[0] - v[1]);
  }
};

template <int kWidth, class F, typename T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(Arrays<const T, F::kIn> in, const float* weight, std::int64_t records,
                    Divider packs, bool wide, F f, T* out) {
  constexpr int kMine = 4 / F::kIn;
  const std::int64_t items = records * packs.value();
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * kMine * kThreads + threadIdx.x;
  Pack<kWidth> from[kMine][F::kIn];
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t i = start + k * kThreads;
    if (i >= items) continue;
#pragma unroll
    for (int a = 0; a < F::kIn; ++a) {
      from[k][a] = read_pack<kWidth>(in.of[a] + i * kWidth, wide);
    }
  }
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t i = start + k * kThreads;
    if (i >= items) continue;
    const std::int64_t b = packs.divide(i), column = (i - b * packs.value()) * kWidth;
    const float w = weight[f.record(b)];
    Pack<kWidth> to = {};
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      float v[F::kIn];
#pragma unroll
      for (int a = 0; a < F::kIn; ++a) v[a] = from[k][a].of[e];
      if (w != 0) to.of[e] = f(w, b, column + e, v);
    }
    write_pack<kWidth>(out + i * kWidth, to, wide);
  }
}

// The same for rows that are no multiple of a pack: a pack may go over into the next row.
template <int kWidth, class F, typename T>
__global__ void __launch_bounds__(kThreads)
    gradient_across_rows(Arrays<const T, F::kIn> in, const float* weight, std::int64_t records,
                         Divider columns, F f, T* out) {
  constexpr int kMine = 4 / F::kIn;
  const std::int64_t n = records * columns.value();
  const std::int64_t start =
      (static_cast<std::int64_t>(blockIdx.x) * kMine * kThreads + threadIdx.x) * kWidth;
  Pack<kWidth> from[kMine][F::kIn] = {};
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t first = start + k * kThreads * kWidth;
    if (first >= n) continue;
    const bool whole = first + kWidth <= n;
#pragma unroll
    for (int a = 0; a < F::kIn; ++a) {
      if (whole) from[k][a] = load_pack<kWidth>(in.of[a] + first);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if (!whole && first + e < n) from[k][a].of[e] = widen(in.of[a][first + e]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t first = start + k * kThreads * kWidth;
    if (first >= n) continue;
    std::int64_t b = columns.divide(first), column = first - b * columns.value();
    float w = weight[f.record(b)];
    Pack<kWidth> to = {};
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      float v[F::kIn];
#pragma unroll
      for (int a = 0; a < F::kIn; ++a) v[a] = from[k][a].of[e];
      if (w != 0) to.of[e] = f(w, b, column, v);
      if (++column < columns.value()) continue;
      column = 0;
      w = ++b < records ? weight[f.record(b)] : 0;
    }
    if (first + kWidth <= n) {
      store_pack(out + first, to);
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if (first + e < n) out[first + e] = rounded<T>(to.of[e]);
      }
    }
  }
}

template <typename T = float, class F>
void gradient(Stream& s, const char* name, const Arrays<const T, F::kIn>& in, const Tensor& weight,
              std::int64_t records, std::int64_t columns, bool wide, const F& f, Tensor out) {
  if (records * columns == 0) return;
  const OnStream on(s);
  const auto launch = [&](auto kernel, int width) {
    const unsigned blocks = blocks_for(records * columns / width, kThreads * (4 / F::kIn));
    kernel<<<blocks, kThreads, 0, on.stream>>>(in, weight.as<float>(), records,
                                               Divider(columns / width), wide, f, out.as<T>());
  };
  if (columns % kWideOf<T> == 0) {
    launch(gradient_kernel<kWideOf<T>, F, T>, kWideOf<T>);
  } else if (wide && columns > kWideOf<T>) {
    const std::int64_t packs = ceil_div(records * columns, kWideOf<T>);
    gradient_across_rows<kWideOf<T>, F>
        <<<blocks_for(packs, kThreads * (4 / F::kIn)), kThreads, 0, on.stream>>>(
            in, weight.as<float>(), records, Divider(columns), f, out.as<T>());
  } else {
    launch(gradient_kernel<1, F, T>, 1);
  }
  check_launch(name);
}

}  // namespace

void CudaKernels::softmax_cross_entropy(Stream& s, const Tensor& logits, const Tensor& labels,
                                        const Tensor& weight, Tensor saved, Tensor loss) {
  for_stored(logits.dtype, [&]<typename T>(Stored<T>) {
    cross_entropy<T>(s, logits, saved);
    const SavedLosses<T> losses{logits.as<T>(), labels.as<std::int32_t>(), saved.as<float>(),
                                row_pitch(logits)};
    sum_rows(s, losses, logits.shape[0], weight, loss);
  });
}

void CudaKernels::softmax_cross_entropy_backward(Stream& s, const Tensor& logits,
                                                 const Tensor& saved, const Tensor& labels,
                                                 const Tensor& weight, const Tensor& dloss,
                                                 Tensor dlogits) {
  const std::int64_t rows = logits.shape[0], classes = logits.shape[1];
  const bool wide = aligned(logits.data) && aligned(dlogits.data);
  const CrossEntropyGradient f{labelled(logits, labels, weight, dloss), saved.as<float>()};
  for_stored(logits.dtype, [&]<typename T>(Stored<T>) {
    if constexpr (!std::is_same_v<T, float>) {
      if (are_long(logits)) return gradient_of_halves<T>(s, logits, saved, f.rows, dlogits);
    }
    gradient<T>(s, "softmax_cross_entropy_backward", {{logits.as<T>()}}, weight, rows, classes,
                wide, f, dlogits);
  });
}

// In `saved` wait the losses of rows.
void CudaKernels::softmax_cross_entropy_with_gradient(Stream& s, const Tensor& logits,
                                                      const Tensor& labels, const Tensor& weight,
                                                      const Tensor& dloss, Tensor saved,
                                                      Tensor loss, Tensor dlogits) {
  auto* const losses = saved.as<double>();
  for_stored(logits.dtype, [&]<typename T>(Stored<T>) {
    with_gradient<T>(s, logits, losses, labelled(logits, labels, weight, dloss), dlogits);
  });
  sum_rows(s, LossesThere{losses}, logits.shape[0], weight, loss);
}

void CudaKernels::binary_cross_entropy(Stream& s, const Tensor& logits, const Tensor& targets,
                                       const Tensor& weight, Tensor loss) {
  sum_pairs(s, "binary_cross_entropy", logits, targets, weight, logits.numel(), 1, BinaryLoss{},
            loss);
}

void CudaKernels::binary_cross_entropy_backward(Stream& s, const Tensor& logits,
                                                const Tensor& targets, const Tensor& weight,
                                                const Tensor& dloss, Tensor dlogits) {
  gradient(s, "binary_cross_entropy_backward", {{logits.as<float>(), targets.as<float>()}}, weight,
           logits.numel(), 1, false, BinaryGradient{{}, dloss.as<float>()}, dlogits);
}

void CudaKernels::squared_error(Stream& s, const Tensor& x, const Tensor& targets,
                                const Tensor& weight, Tensor loss) {
  sum_pairs(s, "squared_error", x, targets, weight, x.shape[0], x.shape[1], SquaredDistance{},
            loss);
}

void CudaKernels::squared_error_backward(Stream& s, const Tensor& x, const Tensor& targets,
                                         const Tensor& weight, const Tensor& dloss, Tensor dx) {
  gradient(s, "squared_error_backward", {{x.as<float>(), targets.as<float>()}}, weight, x.shape[0],
           x.shape[1], aligned(x.data) && aligned(targets.data) && aligned(dx.data),
           SquaredGradient{{}, dloss.as<float>(), static_cast<float>(x.shape[1])}, dx);
}

}  // namespace peal::cuda
