#include "core/data/sampler.h"

#include "core/base/error.h"
#include "core/base/random.h"

namespace peal {
namespace {

// Four rounds favour some orders of a handful of records: 10 records, 20000 epochs, chi squared
// over freedom 10.1, with eight 1.3.
constexpr std::uint64_t kRounds = 8;

}  // namespace

Sampler::Sampler(std::int64_t records, std::uint64_t seed, bool shuffle)
    : records_(records), seed_(seed), shuffle_(shuffle), half_bits_(1) {
  if (records < 1) fail_input("data", "holds ", records, " records; at least 1 is needed");
  while (half_bits_ < 31 && (std::int64_t{1} << (2 * half_bits_)) < records) ++half_bits_;
}

std::int64_t Sampler::record(std::int64_t epoch, std::int64_t position) const {
  if (position < 0 || position >= records_) {
    fail_internal("sampler", "position ", position, " of ", records_, " records");
  }
  if (!shuffle_) return position;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  const std::uint64_t key = mix64(mix64(seed_) ^ static_cast<std::uint64_t>(epoch));
  std::uint64_t value = static_cast<std::uint64_t>(position);
  // A permutation of a larger range, followed until it is back inside, is one of the smaller.
  do {
    std::uint64_t left = value >> half_bits_, right = value & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed = left ^ (mix64(mix64(key + round) ^ right) & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits_ | right;
  } while (value >= static_cast<std::uint64_t>(records_));
  return static_cast<std::int64_t>(value);
}

}  // namespace peal
