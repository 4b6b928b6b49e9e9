// The communicators of one rank that were split from one another. A failure of one is a failure of
// all: its cause goes to the peers of each, so that no rank waits in another of them for its
// deadline, and is what every rank throws.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "comm/flight.h"
#include "comm/transport.h"

namespace peal {

class Family {
 public:
  void join(Transport& transport, FlightRecorder& flight);
  void leave(const Transport& transport);

  // The first failure that this rank knows of; null: none. Cheap.
  const Cause* failure() const {
    return failed_.load(std::memory_order_acquire) ? &cause_ : nullptr;
  }
  // The same after a look at what peers have told in each communicator. `here`: whose call waits.
  const Cause* look(const Transport& here);
  // The first failure wins, and is returned. `here`: whose call has failed; null: none was under
  // way.
  const Cause& fail(const Cause& cause, const Transport* here);
  // Whether a call of `here` has waited for long: told to the peers in the others, which then do
  // not take this rank for the one that keeps them.
  void waits(const Transport& here, bool long_since);

 private:
  struct Member {
    Transport* transport;
    FlightRecorder* flight;
  };
  void hear(const Transport* here);
  void tell(const Cause& cause, const Transport* here);
  void wait_until_told();

  std::mutex mutex_;
  std::vector<Member> members_;
  std::atomic<bool> failed_{false};
  Cause cause_;  // never changes once failed_ is set
};

}  // namespace peal
