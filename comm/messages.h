// Messages between ranks, whatever carries them.
#pragma once

#include <cstddef>

#include "comm/call.h"

namespace peal {

class Messages {
 public:
  // Messages of one lane between two ranks arrive in the order they are sent in; those of different
  // lanes are apart from each other.
  struct Lane {
    int number = 0;     // below kLanes, the same on both sides
    int under_way = 0;  // messages that were begun and have not ended
  };
  static constexpr int kLanes = 16;

  // Messages of 0 bytes are left out on both sides.
  virtual void send(const std::byte* from, std::size_t bytes, int to, Lane& lane) = 0;
  virtual void receive(std::byte* to, std::size_t bytes, int from, Lane& lane) = 0;
  // Returns when at least one more message has ended, of whichever lane.
  virtual void wait_for_any(const Call& call) = 0;
  // Returns when all of this lane have.
  void finish(const Call& call, const Lane& lane) {
    while (lane.under_way > 0) wait_for_any(call);
  }

 protected:
  ~Messages() = default;
};

}  // namespace peal
