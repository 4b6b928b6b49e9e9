// Cutting a source into shards, and verifying shards, on all ranks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "comm/communicator.h"
#include "core/config/job.pb.h"
#include "core/data/shard.h"

namespace peal {

struct ShardRun {
  SourceSpec source;
  ShardOptions options;
  std::filesystem::path out;
  bool fresh = false;     // remove what is there
  bool terminal = false;  // standard output is one
};

struct ShardResult {
  std::int64_t records = 0, skipped = 0;
  std::int64_t shards = 0, kept = 0;  // kept: they were there
  std::int64_t written = 0;           // shards
  bool finished = false;              // false: stopped by a signal
};

// Collective. Shards that are there whole, of the same source and settings, are kept; each rank
// writes a share of the others; rank 0 writes the manifest last. The bytes do not depend on the
// number of ranks or on how often the work was stopped. Throws Error on every rank alike, also when
// another run is at work in the folder.
ShardResult make_shards(const ShardRun& run, Communicator& comm);

// Collective: each rank reads a share. Returns the number of records; nothing when stopped.
std::optional<std::int64_t> verify_on_ranks(const std::filesystem::path& directory,
                                            Communicator& comm, bool terminal);

}  // namespace peal
