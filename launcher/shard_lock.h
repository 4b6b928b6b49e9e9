// One `peal shard` at a time in a folder, on whatever hosts its ranks are.
#pragma once

#include <filesystem>
#include <memory>

#include "comm/communicator.h"
#include "core/data/byte_locks.h"

namespace peal {

class ShardLock {
 public:
  // Collective. Makes `folder`/.lock, whose locks end with the processes that hold them: rank 0
  // holds one, and all ranks together another, so that the next run also waits for ranks that
  // outlive a killed one for a moment. After `wait_seconds` throws Error(input) on every rank,
  // which names the process and host that are at work. A file system without locks is worked on
  // unlocked, with a warning.
  ShardLock(const std::filesystem::path& folder, Communicator& comm, double wait_seconds);

 private:
  void take(const std::filesystem::path& file, double wait_seconds);
  void join(const std::filesystem::path& file);

  std::unique_ptr<ByteLocks> locks_;
};

}  // namespace peal
