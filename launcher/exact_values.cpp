#include "launcher/exact_values.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/base/error.h"
#include "core/base/half_arrays.h"
#include "core/base/random.h"

namespace peal {
namespace {

constexpr std::int64_t kPeriod = 1021;

std::vector<int> period_of_rank(DType dtype, int rank) {
  std::vector<int> values;
  for (std::int64_t i = 0; i < kPeriod; ++i) {
    const int value =
        1 + static_cast<int>(mix64(static_cast<std::uint64_t>(rank * kPeriod + i)) % 3);
    values.push_back(dtype == DType::boolean ? value % 2 : value);
  }
  return values;
}

std::uint16_t half(int value) {
  const auto wide = static_cast<float>(value);
  std::uint16_t narrow = 0;
  narrow_f16_portable(&wide, &narrow, 1);
  return narrow;
}

// To nearest, and to the even one of two.
std::uint16_t brain_half(int value) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
  const std::uint32_t lost = bits & 0xffffu, kept = bits >> 16;
  const bool up = lost > 0x8000u || (lost == 0x8000u && kept % 2 == 1);
  return static_cast<std::uint16_t>(kept + (up ? 1 : 0));
}

template <typename T>
void store(std::byte* to, int value) {
  const T element = static_cast<T>(value);  // wraps around in a small integer, as sums do
  std::memcpy(to, &element, sizeof element);
}

void store(std::byte* to, DType dtype, int value) {
  switch (dtype) {
    case DType::f32:
      return store<float>(to, value);
    case DType::f64:
      return store<double>(to, value);
    case DType::i32:
      return store<std::int32_t>(to, value);
    case DType::i64:
      return store<std::int64_t>(to, value);
    case DType::i8:
      return store<std::int8_t>(to, value);
    case DType::u8:
      return store<std::uint8_t>(to, value);
    case DType::boolean:
      return store<std::uint8_t>(to, value != 0 ? 1 : 0);
    case DType::f16:
      return store<std::uint16_t>(to, half(value));
    case DType::bf16:
      return store<std::uint16_t>(to, brain_half(value));
  }
  fail_internal("exact values", "no elements of ", name_of(dtype));
}

// Calls f(element of the period, elements done before, elements) for the runs within one period
// that make up [first, first + count).
template <typename F>
void for_each_run(std::int64_t first, std::int64_t count, F f) {
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t from = (first + done) % kPeriod;
    const std::int64_t run = std::min(kPeriod - from, count - done);
    f(static_cast<std::size_t>(from), static_cast<std::size_t>(done),
      static_cast<std::size_t>(run));
    done += run;
  }
}

}  // namespace

ExactValues::ExactValues(DType dtype, const std::vector<int>& period)
    : element_size_(size_of(dtype)), period_(period.size() * element_size_) {
  for (std::size_t i = 0; i < period.size(); ++i) {
    store(&period_[i * element_size_], dtype, period[i]);
  }
}

ExactValues ExactValues::of_rank(DType dtype, int rank) {
  return {dtype, period_of_rank(dtype, rank)};
}

ExactValues ExactValues::sum_of_ranks(DType dtype, int ranks) {
  std::vector<int> sums(static_cast<std::size_t>(kPeriod));
  for (int r = 0; r < ranks; ++r) {
    const std::vector<int> values = period_of_rank(dtype, r);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += values[i];
  }
  return {dtype, sums};
}

void ExactValues::fill(std::byte* data, std::int64_t first, std::int64_t count) const {
  for_each_run(first, count, [&](std::size_t from, std::size_t done, std::size_t run) {
    std::memcpy(data + done * element_size_, &period_[from * element_size_], run * element_size_);
  });
}

std::int64_t ExactValues::wrong(const std::byte* data, std::int64_t first,
                                std::int64_t count) const {
  std::int64_t wrong = 0;
  for_each_run(first, count, [&](std::size_t from, std::size_t done, std::size_t run) {
    const std::byte* is = data + done * element_size_;
    const std::byte* wanted = &period_[from * element_size_];
    if (std::memcmp(is, wanted, run * element_size_) == 0) return;
    for (std::size_t i = 0; i < run * element_size_; i += element_size_) {
      wrong += std::memcmp(is + i, wanted + i, element_size_) != 0 ? 1 : 0;
    }
  });
  return wrong;
}

}  // namespace peal
