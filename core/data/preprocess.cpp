#include "core/data/preprocess.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "core/base/random.h"

namespace peal {
namespace {

using Kind = PreprocessStep::Kind;

constexpr std::uint64_t kRandomSite = 0x6175676d656e74;  // apart from every other draw of a step

// A step made ready for its place in the list. Affine kinds are y = (x - mean) * factor + offset,
// each vector one number, one a channel or one a feature.
struct Step {
  Kind kind = Kind::scale;
  Shape shape;  // of what it is given
  std::vector<float> mean, factor;
  float offset = 0;
  std::int64_t classes = 0;
  std::int64_t padding = 0;
  float probability = 0;

  bool affine() const {
    return kind == Kind::scale || kind == Kind::standardize_given ||
           kind == Kind::standardize_per_feature;
  }
};

// One multiplication and one addition for each element: what affine steps on bytes fold into.
struct Affine {
  std::vector<float> factor, offset;  // of one length, which divides the record's
};

void widen(const void* record, DType dtype, std::int64_t n, float* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, record, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  const auto* bytes = static_cast<const std::uint8_t*>(record);
  for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(bytes[i]);
}

void widen_affine(const std::uint8_t* bytes, const Affine& affine, std::int64_t n, float* out) {
  const std::int64_t groups = static_cast<std::int64_t>(affine.factor.size());
  const std::int64_t run = n / groups;
  for (std::int64_t g = 0; g < groups; ++g) {
    const float factor = affine.factor[static_cast<std::size_t>(g)];
    const float offset = affine.offset[static_cast<std::size_t>(g)];
    for (std::int64_t i = g * run; i < (g + 1) * run; ++i) {
      out[i] = static_cast<float>(bytes[i]) * factor + offset;
    }
  }
}

void apply_affine(const Step& step, std::int64_t n, float* x) {
  const std::int64_t groups = static_cast<std::int64_t>(step.mean.size());
  if (groups == n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      x[i] = (x[i] - step.mean[at]) * step.factor[at] + step.offset;
    }
    return;
  }
  const std::int64_t run = n / groups;
  for (std::int64_t g = 0; g < groups; ++g) {
    const float mean = step.mean[static_cast<std::size_t>(g)];
    const float factor = step.factor[static_cast<std::size_t>(g)];
    for (std::int64_t i = g * run; i < (g + 1) * run; ++i) {
      x[i] = (x[i] - mean) * factor + step.offset;
    }
  }
}

void standardize_record(std::int64_t n, float* x) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  double squares = 0;
  for (std::int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double deviation = std::sqrt(squares / static_cast<double>(n));
  const double factor = deviation > 0 ? 1 / deviation : 0;  // a constant record becomes zeros
  for (std::int64_t i = 0; i < n; ++i) x[i] = static_cast<float>((x[i] - mean) * factor);
}

// Moves the window in place: rows are walked in the direction that reads each before it is
// overwritten.
void crop(const Step& step, const Random& random, float* x) {
  const std::int64_t height = step.shape[-2], width = step.shape[-1];
  const std::int64_t channels = step.shape.numel() / (height * width);
  const auto draw = [&](std::uint32_t word) {
    const auto range = static_cast<std::uint64_t>(2 * step.padding + 1);
    return static_cast<std::int64_t>(word * range >> 32) - step.padding;
  };
  const auto words = random.words(0);
  const std::int64_t dy = draw(words[0]), dx = draw(words[1]);
  const std::int64_t from = std::clamp<std::int64_t>(-dx, 0, width);
  const std::int64_t to = std::clamp<std::int64_t>(width - dx, 0, width);
  for (std::int64_t c = 0; c < channels; ++c) {
    float* picture = x + c * height * width;
    for (std::int64_t i = 0; i < height; ++i) {
      const std::int64_t y = dy >= 0 ? i : height - 1 - i;
      float* row = picture + y * width;
      if (y + dy < 0 || y + dy >= height || from >= to) {
        std::fill(row, row + width, 0.0f);
        continue;
      }
      std::memmove(row + from, picture + (y + dy) * width + from + dx,
                   static_cast<std::size_t>(to - from) * sizeof(float));
      std::fill(row, row + from, 0.0f);
      std::fill(row + to, row + width, 0.0f);
    }
  }
}

void flip(const Step& step, const Random& random, float* x) {
  if (random.uniform(0) >= step.probability) return;
  const std::int64_t width = step.shape[-1];
  const std::int64_t rows = step.shape.numel() / width;
  for (std::int64_t r = 0; r < rows; ++r) std::reverse(x + r * width, x + (r + 1) * width);
}

bool all_finite(const float* x, std::int64_t n) {
  constexpr std::uint32_t kExponent = 0x7f800000;
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    bad |= (std::bit_cast<std::uint32_t>(x[i]) & kExponent) == kExponent ? 1u : 0u;
  }
  return bad == 0;
}

std::string place(std::size_t step) {
  return cat("data.preprocess[", step, "]");
}

void check_finite(float value, const char* name, const std::string& where) {
  if (!std::isfinite(value)) {
    fail_input(where, name, " is ", value, "; allowed are finite numbers");
  }
}

Step make_scale(const PreprocessStep& given, const std::string& where) {
  check_finite(given.factor, "factor", where);
  check_finite(given.offset, "offset", where);
  Step step;
  step.mean = {0};
  step.factor = {given.factor};
  step.offset = given.offset;
  return step;
}

Step make_given(const PreprocessStep& given, const Shape& shape, const std::string& where) {
  const std::size_t channels = shape.rank() > 1 ? static_cast<std::size_t>(shape[0]) : 1;
  for (const auto& [name, list] : {std::pair("mean", &given.mean), {"std", &given.std}}) {
    if (list->size() != 1 && list->size() != channels) {
      fail_input(where, name, " has ", list->size(), " numbers; a record has shape ", shape,
                 ", so that 1 is allowed", channels > 1 ? cat(", or ", channels) : "");
    }
    for (const float value : *list) check_finite(value, name, where);
  }
  const std::size_t groups = std::max(given.mean.size(), given.std.size());
  Step step;
  for (std::size_t g = 0; g < groups; ++g) {
    const float deviation = given.std[given.std.size() == 1 ? 0 : g];
    if (!(deviation > 0)) {
      fail_input(where, "std is ", deviation, "; allowed are numbers above 0");
    }
    step.mean.push_back(given.mean[given.mean.size() == 1 ? 0 : g]);
    step.factor.push_back(1 / deviation);
  }
  return step;
}

Step make_one_hot(const PreprocessStep& given, const Shape& shape, const std::string& where) {
  if (given.classes < 1) {
    fail_input(where, "classes is ", given.classes, "; allowed are 1 and above");
  }
  if (shape.numel() != 1) {
    fail_input(where, "one_hot needs a record of one class number; here it has shape ", shape);
  }
  Step step;
  step.classes = given.classes;
  return step;
}

Step make_random(const PreprocessStep& given, const Shape& shape, const std::string& where) {
  if (shape.rank() != 2 && shape.rank() != 3) {
    fail_input(where, given.kind == Kind::random_crop ? "random_crop" : "random_flip",
               " needs a picture, (H, W) or (C, H, W); here a record has shape ", shape);
  }
  if (given.padding < 0)
    fail_input(where, "padding is ", given.padding, "; allowed are 0 and above");
  if (!(given.probability >= 0 && given.probability <= 1)) {
    fail_input(where, "probability is ", given.probability, "; allowed are 0 to 1");
  }
  Step step;
  step.padding = given.padding;
  step.probability = given.probability;
  return step;
}

}  // namespace

struct Preprocess::Impl {
  Shape input;
  Shape output;
  std::vector<Step> steps;
  std::size_t folded = 0;  // leading affine steps that `bytes` stands for when a record is u8
  Affine bytes;

  void run(const Step& step, const Dataset& dataset, std::int64_t record, const Random& random,
           bool augment, float* x) const;
  void run_all(const Dataset& dataset, std::int64_t record, std::uint64_t seed, std::int64_t epoch,
               bool augment, float* out) const;
  Step feature_statistics(const Dataset& training) const;
  void fold();
};

void Preprocess::Impl::run(const Step& step, const Dataset& dataset, std::int64_t record,
                           const Random& random, bool augment, float* x) const {
  const std::int64_t n = step.shape.numel();
  if (step.affine()) {
    apply_affine(step, n, x);
  } else if (step.kind == Kind::standardize_per_record) {
    standardize_record(n, x);
  } else if (step.kind == Kind::one_hot) {
    const float value = x[0];
    if (!(value >= 0 && value < static_cast<float>(step.classes) && value == std::floor(value))) {
      fail_input(dataset.name(), "record ", record, " is class ", value,
                 "; one_hot allows whole numbers from 0 to ", step.classes - 1);
    }
    std::fill(x, x + step.classes, 0.0f);
    x[static_cast<std::int64_t>(value)] = 1;
  } else if (augment && step.kind == Kind::random_crop) {
    crop(step, random, x);
  } else if (augment && step.kind == Kind::random_flip) {
    flip(step, random, x);
  }
}

void Preprocess::Impl::run_all(const Dataset& dataset, std::int64_t record, std::uint64_t seed,
                               std::int64_t epoch, bool augment, float* out) const {
  const void* stored = dataset.record(record);
  std::size_t first = 0;
  if (dataset.record_dtype() == DType::u8 && folded > 0) {
    widen_affine(static_cast<const std::uint8_t*>(stored), bytes, input.numel(), out);
    first = folded;
  } else {
    widen(stored, dataset.record_dtype(), input.numel(), out);
  }
  for (std::size_t i = first; i < steps.size(); ++i) {
    const Random random({.seed = seed,
                         .step = static_cast<std::uint64_t>(epoch),
                         .stream = static_cast<std::uint64_t>(record),
                         .site = kRandomSite + i});
    run(steps[i], dataset, record, random, augment, out);
  }
  if (!all_finite(out, output.numel())) {
    fail_input(dataset.name(), "record ", record,
               " holds a value that is not finite, or becomes so by data.preprocess");
  }
}

// Two passes, so that a large mean does not eat the digits of a small deviation.
Step Preprocess::Impl::feature_statistics(const Dataset& training) const {
  const auto n = static_cast<std::size_t>(output.numel());
  const auto count = static_cast<double>(training.size());
  std::vector<float> x(n);
  std::vector<double> mean(n), squares(n);
  for (std::int64_t r = 0; r < training.size(); ++r) {
    run_all(training, r, 0, 0, /*augment=*/false, x.data());
    for (std::size_t i = 0; i < n; ++i) mean[i] += x[i];
  }
  for (double& m : mean) m /= count;
  for (std::int64_t r = 0; r < training.size(); ++r) {
    run_all(training, r, 0, 0, /*augment=*/false, x.data());
    for (std::size_t i = 0; i < n; ++i) squares[i] += (x[i] - mean[i]) * (x[i] - mean[i]);
  }
  Step step;
  for (std::size_t i = 0; i < n; ++i) {
    const double deviation = std::sqrt(squares[i] / count);
    step.mean.push_back(static_cast<float>(mean[i]));
    step.factor.push_back(deviation > 0 ? static_cast<float>(1 / deviation) : 0.0f);
  }
  return step;
}

// Folded in f64 and rounded once. Bytes lose nothing by it; floats with a large mean would, and
// take the steps one by one.
void Preprocess::Impl::fold() {
  std::size_t groups = 1;
  while (folded < steps.size() && steps[folded].affine()) {
    groups = std::max(groups, steps[folded++].mean.size());
  }
  for (std::size_t g = 0; g < groups; ++g) {
    double factor = 1, offset = 0;
    for (std::size_t i = 0; i < folded; ++i) {
      const Step& step = steps[i];
      // The lengths are 1, channels or features: each divides the next.
      const std::size_t at = g * step.mean.size() / groups;
      offset = (offset - step.mean[at]) * step.factor[at] + step.offset;
      factor *= step.factor[at];
    }
    bytes.factor.push_back(static_cast<float>(factor));
    bytes.offset.push_back(static_cast<float>(offset));
  }
}

Preprocess::Preprocess(std::vector<PreprocessStep> steps, const Dataset& training)
    : impl_(std::make_unique<Impl>()) {
  Impl& self = *impl_;
  self.input = self.output = training.record_shape();
  if (!steps.empty() && training.record_dtype() == DType::i32) {
    fail_input("data.preprocess", "the records of ", training.name(),
               " are tokens, which a model sees as they are; leave data.preprocess out");
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const PreprocessStep& given = steps[i];
    Step step;
    switch (given.kind) {
      case Kind::scale:
        step = make_scale(given, place(i));
        break;
      case Kind::standardize_per_record:
        break;
      case Kind::standardize_per_feature:
        step = self.feature_statistics(training);
        break;
      case Kind::standardize_given:
        step = make_given(given, self.output, place(i));
        break;
      case Kind::one_hot:
        step = make_one_hot(given, self.output, place(i));
        break;
      case Kind::random_crop:
      case Kind::random_flip:
        step = make_random(given, self.output, place(i));
        break;
    }
    step.kind = given.kind;
    step.shape = self.output;
    if (given.kind == Kind::one_hot) self.output = Shape{given.classes};
    self.steps.push_back(std::move(step));
  }
  self.fold();
}

Preprocess::~Preprocess() = default;

const Shape& Preprocess::output_shape() const {
  return impl_->output;
}

void Preprocess::apply(const Dataset& dataset, std::int64_t record, std::uint64_t seed,
                       std::int64_t epoch, bool augment, float* out) const {
  if (!(dataset.record_shape() == impl_->input)) {
    fail_input(dataset.name(), "records have shape ", dataset.record_shape(),
               "; the training set's have ", impl_->input);
  }
  if (dataset.record_dtype() == DType::i32) fail_internal(dataset.name(), "tokens as numbers");
  impl_->run_all(dataset, record, seed, epoch, augment, out);
}

}  // namespace peal
