// A record of weight 0 is not looked at, so that whatever fills it counts nowhere. Sums over
// records are taken in f64 by one block, as no call has memory for partial sums:
// binary_cross_entropy and squared_error, whose records are small, take no other.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/rows.cuh"

namespace peal::cuda {
namespace {

constexpr int kOneBlock = 1024;  // threads of a block that is the only one

// ---- Cross entropy of classes ---------------------------------------------------------------

// Probabilities, and in the place of its label's probability each record's loss: where losses wait
// for sum_losses, which puts e^-loss there.
template <class Part>
__global__ void __launch_bounds__(Part::kBlock)
    cross_entropy_rows(const float* logits, const std::int32_t* labels, const float* weight,
                       float* probabilities, RowsOf of) {
  const Part part(of);
  if (part.outside()) return;
  const float* x = logits + part.offset();
  float* to = probabilities + part.offset();
  const auto row = part.read(x);
  const float largest = part.max(row);
  const double total = part.sum([=](float v) { return exp_below(v - largest); }, row);
  const double inverse = 1 / total;
  part.write(
      to, [=](float v) { return static_cast<float>(exp_below(v - largest) * inverse); }, row);
  if (weight[part.row] == 0) return;
  const std::int32_t label = labels[part.row];
  if (part.has(label)) to[label] = static_cast<float>(largest + log(total) - x[label]);
}

__global__ void __launch_bounds__(kOneBlock)
    sum_losses(const std::int32_t* labels, const float* weight, std::int64_t records,
               std::int64_t classes, float* probabilities, float* loss) {
  constexpr int kAtOnce = 4;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < records; i += kAtOnce * kOneBlock) {
    float* place[kAtOnce];
    float weights[kAtOnce], losses[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const std::int64_t b = i + k * kOneBlock;
      weights[k] = b < records ? weight[b] : 0;
      place[k] = weights[k] != 0 ? probabilities + b * classes + labels[b] : nullptr;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) losses[k] = place[k] != nullptr ? *place[k] : 0;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (place[k] == nullptr) continue;
      sum += static_cast<double>(weights[k]) * losses[k];
      *place[k] = static_cast<float>(exp_below(-losses[k]));
    }
  }
  sum = block_reduce<kOneBlock>(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum);
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

// loss = sum of weight * f(x, t) / divisor over all elements of all records
template <int kWidth, class F>
__global__ void __launch_bounds__(kOneBlock)
    sum_pairs(const float* x, const float* t, const float* weight, std::int64_t records,
              Divider packs, bool wide, double divisor, F f, float* loss) {
  constexpr int kAtOnce = 4;
  const std::int64_t items = records * packs.value();
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < items; i += kAtOnce * kOneBlock) {
    Pack<kWidth> a[kAtOnce], b[kAtOnce];
    float weights[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const std::int64_t item = i + k * kOneBlock;
      weights[k] = 0;
      if (item >= items) continue;
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
  sum = block_reduce<kOneBlock>(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum / divisor);
}

template <class F>
void sum_pairs(const OnStream& on, const Tensor& x, const Tensor& t, const Tensor& weight,
               std::int64_t records, std::int64_t features, F f, Tensor loss) {
  const bool wide = aligned(x.data) && aligned(t.data);
  const auto launch = [&](auto kernel, int width) {
    kernel<<<1, kOneBlock, 0, on.stream>>>(x.as<float>(), t.as<float>(), weight.as<float>(),
                                           records, Divider(features / width), wide,
                                           static_cast<double>(features), f, loss.as<float>());
  };
  if (features % kWide == 0) {
    launch(sum_pairs<kWide, F>, kWide);
  } else {
    launch(sum_pairs<1, F>, 1);
  }
}

// ---- Gradients, element by element ----------------------------------------------------------

// gradient(weight, record, column, x, t) for records whose weight is not 0; the others get 0.
struct CrossEntropyGradient {
  static constexpr int kIn = 1;  // probabilities
  const std::int32_t* labels;
  const float* dloss;
  __device__ float operator()(float weight, std::int64_t b, std::int64_t c, const float* v) const {
    const float factor = *dloss * weight;
    return factor * (c == labels[b] ? v[0] - 1 : v[0]);
  }
};

struct BinaryGradient {
  static constexpr int kIn = 2;  // logits, targets
  const float* dloss;
  __device__ float operator()(float weight, std::int64_t, std::int64_t, const float* v) const {
    const double gap = 1.0 / (1.0 + exp(-static_cast<double>(v[0]))) - v[1];
    return static_cast<float>(static_cast<double>(*dloss) * weight * gap);
  }
};

struct SquaredGradient {
  static constexpr int kIn = 2;  // x, targets
  const float* dloss;
  float features;
  __device__ float operator()(float weight, std::int64_t, std::int64_t, const float* v) const {
    const float factor = 2.0f * *dloss * weight / features;
    return factor * (v[0] - v[1]);
  }
};

template <int kWidth, class F>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(Arrays<const float, F::kIn> in, const float* weight, std::int64_t records,
                    Divider packs, bool wide, F f, float* out) {
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
    const float w = weight[b];
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

template <class F>
void gradient(Stream& s, const char* name, const Arrays<const float, F::kIn>& in,
              const Tensor& weight, std::int64_t records, std::int64_t columns, bool wide,
              const F& f, Tensor out) {
  if (records * columns == 0) return;
  const OnStream on(s);
  const auto launch = [&](auto kernel, int width) {
    const unsigned blocks = blocks_for(records * columns / width, kThreads * (4 / F::kIn));
    kernel<<<blocks, kThreads, 0, on.stream>>>(in, weight.as<float>(), records,
                                               Divider(columns / width), wide, f, out.as<float>());
  };
  if (columns % kWide == 0) {
    launch(gradient_kernel<kWide, F>, kWide);
  } else {
    launch(gradient_kernel<1, F>, 1);
  }
  check_launch(name);
}

}  // namespace

void CudaKernels::softmax_cross_entropy(Stream& s, const Tensor& logits, const Tensor& labels,
                                        const Tensor& weight, Tensor probabilities, Tensor loss) {
  const std::int64_t records = logits.shape[0], classes = logits.shape[1];
  for_part(classes, [&]<class Part>(PartTag<Part>) {
    launch_rows<Part>(s, "softmax_cross_entropy", cross_entropy_rows<Part>, records, classes, 1,
                      aligned(logits.data) && aligned(probabilities.data), logits.as<float>(),
                      labels.as<std::int32_t>(), weight.as<float>(), probabilities.as<float>());
  });
  const OnStream on(s);
  sum_losses<<<1, kOneBlock, 0, on.stream>>>(labels.as<std::int32_t>(), weight.as<float>(), records,
                                             classes, probabilities.as<float>(), loss.as<float>());
  check_launch("softmax_cross_entropy, the sum");
}

void CudaKernels::softmax_cross_entropy_backward(Stream& s, const Tensor& probabilities,
                                                 const Tensor& labels, const Tensor& weight,
                                                 const Tensor& dloss, Tensor dlogits) {
  gradient(s, "softmax_cross_entropy_backward", {{probabilities.as<float>()}}, weight,
           probabilities.shape[0], probabilities.shape[1],
           aligned(probabilities.data) && aligned(dlogits.data),
           CrossEntropyGradient{.labels = labels.as<std::int32_t>(), .dloss = dloss.as<float>()},
           dlogits);
}

void CudaKernels::binary_cross_entropy(Stream& s, const Tensor& logits, const Tensor& targets,
                                       const Tensor& weight, Tensor loss) {
  const OnStream on(s);
  sum_pairs(on, logits, targets, weight, logits.numel(), 1, BinaryLoss{}, loss);
  check_launch("binary_cross_entropy");
}

void CudaKernels::binary_cross_entropy_backward(Stream& s, const Tensor& logits,
                                                const Tensor& targets, const Tensor& weight,
                                                const Tensor& dloss, Tensor dlogits) {
  gradient(s, "binary_cross_entropy_backward", {{logits.as<float>(), targets.as<float>()}}, weight,
           logits.numel(), 1, false, BinaryGradient{.dloss = dloss.as<float>()}, dlogits);
}

void CudaKernels::squared_error(Stream& s, const Tensor& x, const Tensor& targets,
                                const Tensor& weight, Tensor loss) {
  const OnStream on(s);
  sum_pairs(on, x, targets, weight, x.shape[0], x.shape[1], SquaredDistance{}, loss);
  check_launch("squared_error");
}

void CudaKernels::squared_error_backward(Stream& s, const Tensor& x, const Tensor& targets,
                                         const Tensor& weight, const Tensor& dloss, Tensor dx) {
  gradient(s, "squared_error_backward", {{x.as<float>(), targets.as<float>()}}, weight, x.shape[0],
           x.shape[1], aligned(x.data) && aligned(targets.data) && aligned(dx.data),
           SquaredGradient{.dloss = dloss.as<float>(), .features = static_cast<float>(x.shape[1])},
           dx);
}

}  // namespace peal::cuda
