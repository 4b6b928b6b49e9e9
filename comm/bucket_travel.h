// How the gradients of a bucket get to the other ranks and their sum comes back.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/buckets.h"
#include "core/device/buffer.h"

namespace peal {

// The arenas of a rank's partial sums, one behind the other.
struct PartialSums {
  std::byte* data = nullptr;
  Device device;
  int count = 1;
  std::size_t stride = 0;  // bytes
  std::size_t arena_bytes = 0;
  int most = 1;  // that one rank has

  std::byte* at(int index) const { return data + static_cast<std::size_t>(index) * stride; }
};

struct Bucket {
  std::string name;
  std::size_t index = 0;
  std::size_t begin = 0, end = 0;  // bytes of the arena
  std::size_t missing = 0;         // bytes that are not final yet
  Request request;

  std::size_t elements() const { return (end - begin) / sizeof(float); }
};

class BucketTravel {
 public:
  virtual ~BucketTravel() = default;

  // All partial sums are final: begins.
  virtual void start(Stream& s, Bucket& bucket) = 0;
  // For a way of two calls: the first was waited for, begins the second.
  virtual bool has_second() const { return false; }
  virtual void second(Stream&, Bucket&) {}
  // The last call was waited for: puts the total into partial 0.
  virtual void arrive(const Bucket&) {}

  virtual std::size_t bytes() const { return 0; }  // of memory
  virtual std::byte* error() { return nullptr; }
};

// Collective.
std::unique_ptr<BucketTravel> make_plain_travel(Communicator& comm, const BucketOptions& options,
                                                const PartialSums& sums,
                                                const BucketShards* shards);
std::unique_ptr<BucketTravel> make_half_travel(Communicator& comm, const BucketOptions& options,
                                               const PartialSums& sums);
std::unique_ptr<BucketTravel> make_int8_travel(Communicator& comm, const BucketOptions& options,
                                               const PartialSums& sums,
                                               const std::vector<Bucket>& buckets);

// The call that sums `views`, one a partial sum, into the first of them.
Request reduce_views(Communicator& comm, Stream& s, const std::string& name,
                     const BucketOptions& options, std::span<const Tensor> views);

}  // namespace peal
