#include "core/data/dataset.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/base/error.h"
#include "core/data/records.h"

namespace peal {
namespace {

class ArrayDataset final : public Dataset {
 public:
  explicit ArrayDataset(Records records)
      : records_(std::move(records)),
        record_bytes_(static_cast<std::size_t>(records_.shape.numel()) * size_of(records_.dtype)) {}

  std::int64_t size() const override { return static_cast<std::int64_t>(records_.labels.size()); }
  const Shape& record_shape() const override { return records_.shape; }
  DType record_dtype() const override { return records_.dtype; }
  const void* record(std::int64_t index) const override {
    return records_.data + static_cast<std::size_t>(index) * record_bytes_;
  }
  float label(std::int64_t index) const override {
    return records_.labels[static_cast<std::size_t>(index)];
  }
  const std::string& name() const override { return records_.name; }

 private:
  Records records_;
  std::size_t record_bytes_;
};

class LimitedDataset final : public Dataset {
 public:
  LimitedDataset(std::unique_ptr<Dataset> whole, std::int64_t limit)
      : whole_(std::move(whole)), size_(limit) {
    for (const std::int64_t start : whole_->shard_starts()) {
      starts_.push_back(std::min(start, limit));
      if (start >= limit) break;
    }
  }

  std::int64_t size() const override { return size_; }
  std::span<const std::int64_t> shard_starts() const override { return starts_; }
  bool whole() const override { return whole_->whole(); }
  void want(std::span<const std::int64_t> shards, std::size_t now) const override {
    whole_->want(shards, now);
  }
  Arrival arrival() const override { return whole_->arrival(); }
  const Shape& record_shape() const override { return whole_->record_shape(); }
  DType record_dtype() const override { return whole_->record_dtype(); }
  const void* record(std::int64_t index) const override { return whole_->record(index); }
  float label(std::int64_t index) const override { return whole_->label(index); }
  const std::string& name() const override { return whole_->name(); }

 private:
  std::unique_ptr<Dataset> whole_;
  std::int64_t size_;
  std::vector<std::int64_t> starts_;
};

}  // namespace

std::optional<std::uint64_t> checked_bytes(std::span<const std::int64_t> dims,
                                           std::uint64_t element_bytes) {
  std::int64_t product = static_cast<std::int64_t>(element_bytes);
  for (const std::int64_t dim : dims) {
    if (dim < 0 || __builtin_mul_overflow(product, dim, &product)) return std::nullopt;
  }
  return static_cast<std::uint64_t>(product);
}

std::unique_ptr<Dataset> array_dataset(Records records) {
  return std::make_unique<ArrayDataset>(std::move(records));
}

std::unique_ptr<Dataset> limit_records(std::unique_ptr<Dataset> dataset, std::int64_t limit) {
  if (limit < 0) {
    fail_input(dataset->name(), "limit ", limit, "; allowed are 0 (all records) and above");
  }
  if (limit == 0 || limit >= dataset->size()) return dataset;
  return std::make_unique<LimitedDataset>(std::move(dataset), limit);
}

std::unique_ptr<Dataset> memory_dataset(std::string name, const Shape& record_shape, DType dtype,
                                        std::vector<std::byte> records, std::vector<float> labels) {
  if (dtype != DType::u8 && dtype != DType::f32) {
    fail_input(name, "records of ", name_of(dtype), "; allowed are u8 and f32");
  }
  std::vector<std::int64_t> dims = record_shape.vector();
  dims.push_back(static_cast<std::int64_t>(labels.size()));
  const auto bytes = checked_bytes(dims, size_of(dtype));
  if (labels.empty() || record_shape.numel() == 0) fail_input(name, "holds no records");
  if (!bytes || *bytes != records.size()) {
    fail_input(name, "holds ", records.size(), " bytes; ", labels.size(), " records of shape ",
               record_shape, " and dtype ", name_of(dtype), " take ", bytes.value_or(0));
  }
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(records));
  return array_dataset(
      {std::move(name), record_shape, dtype, owner->data(), std::move(labels), owner});
}

void check_class_labels(const Dataset& dataset, std::int64_t classes) {
  for (std::int64_t i = 0; i < dataset.size(); ++i) {
    const float label = dataset.label(i);
    if (label >= 0 && label < static_cast<float>(classes) && label == std::floor(label)) continue;
    fail_input(dataset.name(), "record ", i, " has label ", label,
               "; allowed are whole numbers from 0 to ", classes - 1, " (", classes, " classes)");
  }
}

}  // namespace peal
