// Losses are summed over the records in order, in f64. A record of weight 0 is not looked at, so
// that whatever fills it counts nowhere.
#include <algorithm>
#include <cmath>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"
#include "core/kernels/cpu/pieces.h"
#include "core/kernels/cpu/rows.h"
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

std::int64_t first_argmax(const float* x, std::int64_t n) {
  return std::max_element(x, x + n) - x;
}

// Elements whose exponentials are taken at a time: several rows, so that there are many even when
// there are few classes, or a part of a row.
constexpr std::int64_t kTile = kRoom, kRows = 64;

std::int64_t rows_at_a_time(std::int64_t columns) {
  return std::clamp<std::int64_t>(kTile / std::max<std::int64_t>(columns, 1), 1, kRows);
}

PEAL_CLONES float largest_of(const float* x, std::int64_t n) {
  return max_of(x, n);
}

float largest_of(const Tensor& x, std::int64_t at, std::int64_t n) {
  float largest = Reads(x, at, 1)[0];
  for_pieces(x.dtype, n, [&](std::int64_t first, std::int64_t count) {
    const float other = largest_of(Reads(x, at + first, count), count);
    largest = other > largest ? other : largest;
  });
  return largest;
}

PEAL_CLONES void subtract(const float* __restrict x, float value, float* __restrict y,
                          std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] - value;
}

// sums[r] += the sum of exp over the n values of row r
PEAL_CLONES void add_exponentials(float* tile, std::int64_t rows, std::int64_t n, double* sums) {
  for (std::int64_t i = 0; i < rows * n; ++i) tile[i] = exp_f32(tile[i]);
  for (std::int64_t r = 0; r < rows; ++r) sums[r] += sum_lanes(tile + r * n, n);
}

// Of rows from `row` on. saved (rows, 2): largest logit and 1 / sum(exp(x - largest)).
void row_sums(const Tensor& x, std::int64_t row, std::int64_t rows, float* saved) {
  const std::int64_t columns = x.shape[1], pitch = row_pitch(x), at = row * pitch;
  float tile[kTile];
  double sums[kRows] = {};
  for (std::int64_t r = 0; r < rows; ++r) saved[2 * r] = largest_of(x, at + r * pitch, columns);
  const std::int64_t width = std::min(columns, kTile);
  for (std::int64_t first = 0; first < columns; first += width) {
    const std::int64_t n = std::min(width, columns - first);
    for (std::int64_t r = 0; r < rows; ++r) {
      subtract(Reads(x, at + r * pitch + first, n), saved[2 * r], tile + r * n, n);
    }
    add_exponentials(tile, rows, n, sums);
  }
  for (std::int64_t r = 0; r < rows; ++r) saved[2 * r + 1] = static_cast<float>(1.0 / sums[r]);
}

// y = factor * inverse * exp(x - largest)
PEAL_CLONES void softmax_row(const float* x, float largest, float factor, float* y,
                             std::int64_t n) {
  PEAL_ELEMENTWISE
  for (std::int64_t i = 0; i < n; ++i) y[i] = factor * exp_f32(x[i] - largest);
}

// The rows of the logits; a record has `of_record` of them.
struct LabelledRows {
  LabelledRows(const Tensor& x, const Tensor& labels_, const Tensor& weight_)
      : logits(x),
        labels(labels_.as<std::int32_t>()),
        weight(weight_.as<float>()),
        rows(x.shape[0]),
        classes(x.shape[1]),
        pitch(row_pitch(x)),
        of_record(rows / std::max<std::int64_t>(weight_.numel(), 1)) {}

  // after(r) for some rows at a time, when the loss has them and `saved` what row_sums says.
  template <class F>
  void sum_losses(float* saved, float* loss, const F& after) const {
    const std::int64_t step = rows_at_a_time(classes);
    double sum = 0;
    for (std::int64_t first = 0; first < rows; first += step) {
      const std::int64_t end = std::min(first + step, rows);
      row_sums(logits, first, end - first, saved + 2 * first);
      for (std::int64_t r = first; r < end; ++r) {
        const float w = weight[r / of_record];
        if (w == 0) continue;
        const double largest = saved[2 * r], inverse = saved[2 * r + 1];
        const float at_label = Reads(logits, r * pitch + labels[r], 1)[0];
        sum += w * (largest - std::log(inverse) - at_label);
      }
      for (std::int64_t r = first; r < end; ++r) after(r);
    }
    *loss = static_cast<float>(sum / static_cast<double>(of_record));
  }

  void gradient(std::int64_t r, const float* saved, float dloss, const Tensor& dlogits) const {
    const float w = weight[r / of_record];
    const float factor = dloss * w / static_cast<float>(of_record);
    const std::int64_t at = r * pitch;
    for_pieces(dlogits.dtype, classes, [&](std::int64_t first, std::int64_t n) {
      const Writes to(dlogits, at + first, n);
      if (w == 0) {
        std::fill_n(static_cast<float*>(to), n, 0.0f);
        return;
      }
      softmax_row(Reads(logits, at + first, n), saved[2 * r], factor * saved[2 * r + 1], to, n);
      const std::int64_t label = labels[r] - first;
      if (label >= 0 && label < n) to[label] -= factor;
    });
    if (pitch > classes) {
      const Writes gap(dlogits, at + classes, pitch - classes);
      std::fill_n(static_cast<float*>(gap), pitch - classes, 0.0f);
    }
  }

  const Tensor& logits;
  const std::int32_t* labels;
  const float* weight;
  std::int64_t rows, classes, pitch, of_record;
};

}  // namespace

void CpuKernels::softmax_cross_entropy(Stream&, const Tensor& logits, const Tensor& labels,
                                       const Tensor& weight, Tensor saved, Tensor loss) {
  const LabelledRows rows(logits, labels, weight);
  rows.sum_losses(saved.as<float>(), loss.as<float>(), [](std::int64_t) {});
}

void CpuKernels::softmax_cross_entropy_backward(Stream&, const Tensor& logits, const Tensor& saved,
                                                const Tensor& labels, const Tensor& weight,
                                                const Tensor& dloss, Tensor dlogits) {
  const LabelledRows rows(logits, labels, weight);
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    rows.gradient(r, saved.as<float>(), *dloss.as<float>(), dlogits);
  }
}

// While the rows are in the cache.
void CpuKernels::softmax_cross_entropy_with_gradient(Stream&, const Tensor& logits,
                                                     const Tensor& labels, const Tensor& weight,
                                                     const Tensor& dloss, Tensor saved, Tensor loss,
                                                     Tensor dlogits) {
  const LabelledRows rows(logits, labels, weight);
  rows.sum_losses(saved.as<float>(), loss.as<float>(), [&](std::int64_t r) {
    rows.gradient(r, saved.as<float>(), *dloss.as<float>(), dlogits);
  });
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
