// Which record stands at which position of an epoch: a pure function, no memory, no state.
#pragma once

#include <cstdint>

namespace peal {

// Every record exactly once per epoch: an eight-round Feistel network over the smallest even number
// of bits that covers `records`, walked until it lands inside (Black & Rogaway 2002, section 3).
class Sampler {
 public:
  Sampler(std::int64_t records, std::uint64_t seed, bool shuffle);

  std::int64_t record(std::int64_t epoch, std::int64_t position) const;
  std::int64_t records() const { return records_; }

 private:
  std::int64_t records_;
  std::uint64_t seed_;
  bool shuffle_;
  int half_bits_;
};

}  // namespace peal
