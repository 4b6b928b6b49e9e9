// softmax_cross_entropy_with_gradient: to the bit the two calls that it stands for, over every type
// that is stored, rows of every length that a device has a form for, and any place of the rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/kernels/layout.h"
#include "tests/halves.h"
#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

Kernels& k() {
  return kernels_under_test();
}

// Rows (N, C) that begin `pitch` elements after one another; the first `behind` elements after a
// place of 16 bytes.
struct Rows {
  std::int64_t rows, columns, pitch, behind;
};

using Bytes = std::vector<std::byte>;

class Logits {
 public:
  Logits(DType type, const Rows& rows)
      : type_(type), rows_(rows), values_(element(rows.behind + rows.rows * rows.pitch)) {
    const auto nan = std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t r = 0; r < rows.rows; ++r) {
      std::vector<float> row(static_cast<std::size_t>(rows.pitch), nan);
      const auto drawn = normals(static_cast<std::size_t>(rows.columns),
                                 1 + static_cast<std::uint64_t>(r), /*deviation=*/3);
      std::copy(drawn.begin(), drawn.end(), row.begin());
      write(r, row);
    }
  }

  void write(std::int64_t row, const std::vector<float>& values) {
    std::byte* const to = values_.data() + element(rows_.behind + row * rows_.pitch);
    const std::vector<std::uint16_t> halves = narrowed(values, type_);
    const void* const from = type_ == DType::f32 ? static_cast<const void*>(values.data())
                                                 : static_cast<const void*>(halves.data());
    std::memcpy(to, from, element(static_cast<std::int64_t>(values.size())));
  }
  Tensor tensor() {
    const Shape shape{rows_.rows, rows_.columns};
    return {.data = values_.data() + element(rows_.behind),
            .shape = shape,
            .dtype = type_,
            .layout = padded_rows(shape, type_, rows_.pitch)};
  }
  const Bytes& bytes() const { return values_; }

 private:
  std::size_t element(std::int64_t n) const { return static_cast<std::size_t>(n) * size_of(type_); }

  DType type_;
  Rows rows_;
  Bytes values_;
};

void expect_two_calls(DType type, const Rows& rows, std::int64_t of_record) {
  SCOPED_TRACE(testing::Message() << name_of(type) << " " << rows.rows << " x " << rows.columns
                                  << " pitch " << rows.pitch << " behind " << rows.behind
                                  << " of a record " << of_record);
  const auto count_rows = static_cast<std::size_t>(rows.rows);
  Logits logits(type, rows);
  std::vector<std::int32_t> labels(count_rows);
  for (std::size_t r = 0; r < count_rows; ++r) {
    labels[r] = static_cast<std::int32_t>((r * 7919 + 3) % static_cast<std::size_t>(rows.columns));
  }
  labels[0] = static_cast<std::int32_t>(rows.columns - 1);
  labels.back() = 0;
  std::vector<float> weight(count_rows / static_cast<std::size_t>(of_record), 0.75f);
  if (rows.columns > 40) {  // a mask, where threads begin
    std::vector<float> masked = normals(static_cast<std::size_t>(rows.columns), 99);
    std::fill_n(masked.begin(), 40, -INFINITY);
    masked[static_cast<std::size_t>(labels.back())] = 1;
    logits.write(rows.rows - 1, masked);
  }
  if (weight.size() > 2) {  // padded
    weight[1] = 0;
    for (std::int64_t r = of_record; r < 2 * of_record; ++r) {
      labels[static_cast<std::size_t>(r)] = 1 << 30;
      logits.write(r, std::vector<float>(static_cast<std::size_t>(rows.columns),
                                         std::numeric_limits<float>::quiet_NaN()));
    }
  }
  std::vector<float> saved(2 * count_rows), scratch(2 * count_rows), dloss{0.3f};
  float loss = -1, fused_loss = -2, fused_loss_in_place = -3;
  const Tensor t = view(labels, {rows.rows}),
               w = view(weight, {static_cast<std::int64_t>(weight.size())}), d = view(dloss, {1}),
               kept = view(saved, {rows.rows, 2}), room = view(scratch, {rows.rows, 2});

  Stream s;
  Logits two_calls = logits, fused = logits, in_place = logits;
  k().softmax_cross_entropy(s, logits.tensor(), t, w, kept, {.data = &loss, .shape = {}});
  k().softmax_cross_entropy_backward(s, logits.tensor(), kept, t, w, d, two_calls.tensor());
  k().softmax_cross_entropy_with_gradient(s, logits.tensor(), t, w, d, room,
                                          {.data = &fused_loss, .shape = {}}, fused.tensor());
  k().softmax_cross_entropy_with_gradient(s, in_place.tensor(), t, w, d, room,
                                          {.data = &fused_loss_in_place, .shape = {}},
                                          in_place.tensor());
  EXPECT_TRUE(std::isfinite(loss));
  EXPECT_EQ(fused_loss, loss);
  EXPECT_EQ(fused_loss_in_place, loss);
  EXPECT_NE(two_calls.bytes(), logits.bytes());
  EXPECT_TRUE(fused.bytes() == two_calls.bytes());
  EXPECT_TRUE(in_place.bytes() == two_calls.bytes()) << "in place";
}

std::vector<DType> types() {
  std::vector<DType> all = {DType::f32};
  for (const Precision precision : {Precision::bf16, Precision::f16})
    if (k().has_precision(precision)) all.push_back(stored_type(precision));
  return all;
}

TEST(LossWithGradient, IsTheTwoCallsToTheBit) {
  for (const DType type : types()) {
    for (const std::int64_t columns : {1, 2, 10, 16, 32, 37, 251, 256, 301, 1000, 1024, 1027, 1032,
                                       2056, 4097, 8192, 8196, 9003, 50257}) {
      const std::int64_t rows = columns < 300 ? 24 : 6;
      expect_two_calls(type, {rows, columns, columns, 0}, 1);
      expect_two_calls(type, {rows, columns, columns, 0}, 2);
      expect_two_calls(type, {3, columns, columns, 1}, 1);
    }
  }
}

// What a block of a GPU has no room for in shared memory, in both types.
TEST(LossWithGradient, OfRowsThatAreTooLongToBeKept) {
  for (const DType type : types()) {
    for (const std::int64_t columns : {60004, 120000}) {
      expect_two_calls(type, {3, columns, columns, 0}, 1);
    }
  }
}

TEST(LossWithGradient, OfPaddedRows) {
  const bool any = test_device().device.kind == Device::Kind::cpu;  // others pad halves alone
  for (const DType type : types()) {
    if (type == DType::f32 && !any) continue;
    for (const auto& [columns, pitch] : {std::pair{3, 5},
                                         {5, 16},
                                         {17, 64},
                                         {1000, 1024},
                                         {2051, 2056},
                                         {9003, 9024},
                                         {50257, 50304}}) {
      expect_two_calls(type, {6, columns, pitch, 0}, 2);
      expect_two_calls(type, {4, columns, pitch, 3}, 1);
    }
  }
}

// More rows than one block sums the losses of.
TEST(LossWithGradient, OfManyRows) {
  for (const DType type : types()) {
    expect_two_calls(type, {5000, 10, 10, 0}, 1);
    expect_two_calls(type, {5000, 12, 12, 0}, 4);
  }
}

TEST(LossWithGradient, OfNoRecordThatCounts) {
  Stream s;
  std::vector<float> logits = {1, 2, 3, 4}, weight = {0, 0}, saved(4), dloss = {1};
  std::vector<std::int32_t> labels = {1, 0};
  float loss = -1;
  k().softmax_cross_entropy_with_gradient(s, view(logits, {2, 2}), view(labels, {2}),
                                          view(weight, {2}), view(dloss, {1}), view(saved, {2, 2}),
                                          {.data = &loss, .shape = {}}, view(logits, {2, 2}));
  EXPECT_EQ(loss, 0);
  EXPECT_EQ(logits, std::vector<float>(4));
}

}  // namespace
}  // namespace peal::direct
