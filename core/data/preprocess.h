// Turns a stored record into the floats a model sees.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/data/dataset.h"

namespace peal {

struct PreprocessStep {
  enum class Kind : std::uint8_t {
    scale,                    // x * factor + offset
    standardize_per_record,   // by the record's own mean and (population) deviation
    standardize_per_feature,  // by each feature's over the training records
    standardize_given,        // by mean/std: one number, or one a channel (first dimension)
    one_hot,                  // a record of one class number -> vector of `classes`
    random_crop,  // zero padding, random window of the record's size; (H, W) or (C, H, W)
    random_flip,  // left to right with `probability`
  };
  Kind kind = Kind::scale;
  float factor = 1, offset = 0;
  std::vector<float> mean = {}, std = {};
  std::int64_t classes = 0;
  std::int64_t padding = 0;
  float probability = 0.5f;
};

// Immutable and safe from many threads. Made once from the training set (per-feature statistics
// are computed here, in f64, in record order) and used for both sets.
class Preprocess {
 public:
  Preprocess(std::vector<PreprocessStep> steps, const Dataset& training);
  ~Preprocess();

  const Shape& output_shape() const;
  // Writes output_shape().numel() floats. Random steps draw by (seed, epoch, record) and are left
  // out when `augment` is false. Throws Error(input) naming the record when a value is not finite
  // or a class number is out of range.
  void apply(const Dataset& dataset, std::int64_t record, std::uint64_t seed, std::int64_t epoch,
             bool augment, float* out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
