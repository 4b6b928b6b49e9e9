// Losses are summed over the records in order, in f64. A record of weight 0 is not looked at, so
// that whatever fills it counts nowhere.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"
#include "core/kernels/vector_math.h"

namespace peal::cpu {
namespace {

PEAL_CLONES double squared_distance(const float* x, const float* y, std::int64_t n) {
  Lanes sum;
  for_lanes(x, y, n, [&](const Lanes& a, const Lanes& b) {
    for (int k = 0; k < Lanes::kParts; ++k) {
      const Double4 difference = a.part[k] - b.part[k];
      sum.part[k] += difference * difference;
    }
  });
  return sum.total();
}

PEAL_CLONES void scale_difference(const float* __restrict x, const float* __restrict y,
                                  float factor, float* __restrict z, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) z[i] = factor * (x[i] - y[i]);
}

PEAL_CLONES void scale_row(const float* x, float factor, float* y, std::int64_t n) {
  PEAL_ELEMENTWISE
  for (std::int64_t i = 0; i < n; ++i) y[i] = factor * x[i];
}

// Several running maxima, so that one comparison need not wait for the last.
PEAL_INLINE float max_of(const float* x, std::int64_t n) {
  float largest = x[0];
  std::int64_t i = 0;
  if (n >= 16) {
    float lanes[16];
    std::memcpy(lanes, x, sizeof lanes);
    for (i = 16; i + 16 <= n; i += 16) {
      for (int j = 0; j < 16; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    }
    for (const float lane : lanes) largest = lane > largest ? lane : largest;
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

std::int64_t first_argmax(const float* x, std::int64_t n) {
  return std::max_element(x, x + n) - x;
}

// A few rows at a time, so that exp runs over many elements even when there are few classes.
constexpr std::int64_t kRows = 64;

std::int64_t rows_at_a_time(std::int64_t columns) {
  constexpr std::int64_t kCached = 4096;  // elements
  return std::clamp<std::int64_t>(kCached / std::max<std::int64_t>(columns, 1), 1, kRows);
}

// probabilities = softmax(logits) over `rows` rows; log_sums: log(sum(exp(logits))) of each.
PEAL_CLONES void softmax_rows(const float* __restrict logits, std::int64_t rows,
                              std::int64_t columns, float* __restrict probabilities,
                              double* __restrict log_sums) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* x = logits + r * columns;
    float* y = probabilities + r * columns;
    const float largest = max_of(x, columns);
    log_sums[r] = largest;
    for (std::int64_t c = 0; c < columns; ++c) y[c] = x[c] - largest;
  }
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    probabilities[i] = static_cast<float>(exp_of(probabilities[i]));
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    float* y = probabilities + r * columns;
    const double sum = sum_lanes(y, columns);
    log_sums[r] += std::log(sum);
    const auto inverse = static_cast<float>(1.0 / sum);
    for (std::int64_t c = 0; c < columns; ++c) y[c] *= inverse;
  }
}

}  // namespace

void CpuKernels::softmax_cross_entropy(Stream&, const Tensor& logits, const Tensor& labels,
                                       const Tensor& weight, Tensor probabilities, Tensor loss) {
  const std::int64_t records = logits.shape[0], classes = logits.shape[1];
  const std::int64_t step = rows_at_a_time(classes);
  double log_sums[kRows];
  double sum = 0;
  for (std::int64_t first = 0; first < records; first += step) {
    const std::int64_t rows = std::min(step, records - first);
    const float* x = logits.as<float>() + first * classes;
    softmax_rows(x, rows, classes, probabilities.as<float>() + first * classes, log_sums);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float w = weight.as<float>()[first + r];
      if (w == 0) continue;
      const std::int64_t label = labels.as<std::int32_t>()[first + r];
      sum += w * (log_sums[r] - x[r * classes + label]);
    }
  }
  *loss.as<float>() = static_cast<float>(sum);
}

void CpuKernels::softmax_cross_entropy_backward(Stream&, const Tensor& probabilities,
                                                const Tensor& labels, const Tensor& weight,
                                                const Tensor& dloss, Tensor dlogits) {
  const std::int64_t records = probabilities.shape[0], classes = probabilities.shape[1];
  for (std::int64_t b = 0; b < records; ++b) {
    const float factor = *dloss.as<float>() * weight.as<float>()[b];
    float* row = dlogits.as<float>() + b * classes;
    if (weight.as<float>()[b] == 0) {
      std::fill_n(row, classes, 0.0f);
      continue;
    }
    const float* p = probabilities.as<float>() + b * classes;
    const std::int64_t label = labels.as<std::int32_t>()[b];
    const float at_label = factor * (p[label] - 1);
    scale_row(p, factor, row, classes);
    row[label] = at_label;
  }
}

void CpuKernels::binary_cross_entropy(Stream&, const Tensor& logits, const Tensor& targets,
                                      const Tensor& weight, Tensor loss) {
  double sum = 0;
  for (std::int64_t b = 0; b < logits.numel(); ++b) {
    const double w = weight.as<float>()[b];
    if (w == 0) continue;
    const double x = logits.as<float>()[b], t = targets.as<float>()[b];
    sum += w * (std::max(x, 0.0) - t * x + std::log1p(std::exp(-std::fabs(x))));
  }
  *loss.as<float>() = static_cast<float>(sum);
}

void CpuKernels::binary_cross_entropy_backward(Stream&, const Tensor& logits, const Tensor& targets,
                                               const Tensor& weight, const Tensor& dloss,
                                               Tensor dlogits) {
  const double upstream = *dloss.as<float>();
  for (std::int64_t b = 0; b < logits.numel(); ++b) {
    const double w = weight.as<float>()[b];
    const double gap = sigmoid_of(logits.as<float>()[b]) - targets.as<float>()[b];
    dlogits.as<float>()[b] = w == 0 ? 0.0f : static_cast<float>(upstream * w * gap);
  }
}

void CpuKernels::squared_error(Stream&, const Tensor& x, const Tensor& targets,
                               const Tensor& weight, Tensor loss) {
  const std::int64_t records = x.shape[0], features = x.shape[1];
  double sum = 0;
  for (std::int64_t b = 0; b < records; ++b) {
    const double w = weight.as<float>()[b];
    if (w == 0) continue;
    sum += w * squared_distance(x.as<float>() + b * features, targets.as<float>() + b * features,
                                features);
  }
  *loss.as<float>() = static_cast<float>(sum / static_cast<double>(features));
}

void CpuKernels::squared_error_backward(Stream&, const Tensor& x, const Tensor& targets,
                                        const Tensor& weight, const Tensor& dloss, Tensor dx) {
  const std::int64_t records = x.shape[0], features = x.shape[1];
  for (std::int64_t b = 0; b < records; ++b) {
    const float w = weight.as<float>()[b];
    float* row = dx.as<float>() + b * features;
    if (w == 0) {
      std::fill_n(row, features, 0.0f);
      continue;
    }
    const float factor = 2.0f * *dloss.as<float>() * w / static_cast<float>(features);
    scale_difference(x.as<float>() + b * features, targets.as<float>() + b * features, factor, row,
                     features);
  }
}

void CpuKernels::count_correct(Stream&, const Tensor& logits, const Tensor& labels,
                               const Tensor& weight, Tensor count) {
  const std::int64_t classes = logits.shape[1];
  std::int64_t right = 0;
  for (std::int64_t b = 0; b < logits.shape[0]; ++b) {
    if (weight.as<float>()[b] <= 0) continue;
    right +=
        first_argmax(logits.as<float>() + b * classes, classes) == labels.as<std::int32_t>()[b];
  }
  *count.as<float>() = static_cast<float>(right);
}

void CpuKernels::count_correct_binary(Stream&, const Tensor& logits, const Tensor& targets,
                                      const Tensor& weight, Tensor count) {
  std::int64_t right = 0;
  for (std::int64_t b = 0; b < logits.numel(); ++b) {
    if (weight.as<float>()[b] <= 0) continue;
    right += (logits.as<float>()[b] > 0) == (targets.as<float>()[b] > 0.5f);
  }
  *count.as<float>() = static_cast<float>(right);
}

}  // namespace peal::cpu
