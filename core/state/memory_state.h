// What a checkpoint holds, in memory that outlives the process: a file in /dev/shm. Two slots are
// written in turn and each ends in a checksum, so that whoever dies while it writes leaves the
// other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/state/checkpoint.h"

namespace peal {

// The file of a run, which is told from all others by a number. One a host.
std::filesystem::path memory_state_path(std::uint64_t run);
void remove_memory_state(std::uint64_t run);

// What all states of one process have in common.
struct MemoryStateInfo {
  std::string job;  // effective job, text format
  std::uint64_t job_hash = 0;
};

class MemoryStateWriter {
 public:
  // Bytes of the file that holds such tensors.
  static std::size_t bytes(const MemoryStateInfo& info, const std::vector<NamedTensor>& weights,
                           const std::vector<NamedTensor>& optimizer,
                           const std::vector<NamedTensor>& compression);

  // Makes the file, with its memory, and puts it in the place of an older one when the first state
  // is whole in it. Tensors are row-major on the CPU and stay where they are; those of the
  // optimizer may have no memory (optimizer_room). Throws Error(input) that names the file when
  // there is no room.
  MemoryStateWriter(const std::filesystem::path& path, const MemoryStateInfo& info,
                    const std::vector<NamedTensor>& weights,
                    const std::vector<NamedTensor>& optimizer,
                    const std::vector<NamedTensor>& compression);
  ~MemoryStateWriter();  // the file stays
  MemoryStateWriter(const MemoryStateWriter&) = delete;
  MemoryStateWriter& operator=(const MemoryStateWriter&) = delete;

  // Where the next save() will have the optimizer's tensors, in their order: the caller fills those
  // of tensors without memory before each save().
  const std::vector<NamedTensor>& optimizer_room();
  // Copies all tensors as they are after `step`. One pass over the bytes, no allocation.
  void save(std::int64_t step, std::int64_t epoch);
  // Notes that `step` is over, saved or not, and that a state is saved at least every so many
  // steps: what a later start has to do again is counted by them.
  void finished(std::int64_t step, std::int64_t every);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The newest whole state in such a file, checked.
class MemoryState {
 public:
  // Nothing where there is no file, or none of its states is whole; what is damaged is told through
  // `warn` and passed over. Throws Error(input) for a file that cannot be read, or that is another
  // user's: everybody may make files there.
  static std::optional<MemoryState> open(const std::filesystem::path& path,
                                         const std::function<void(const std::string&)>& warn);
  // The same of the two parts of one that came from another host, which must outlive this. `where`
  // is for messages.
  static std::optional<MemoryState> read(std::span<const std::byte> front,
                                         std::span<const std::byte> payload,
                                         const std::string& where);

  MemoryState(MemoryState&&) noexcept;
  MemoryState& operator=(MemoryState&&) noexcept;
  ~MemoryState();

  const std::string& where() const;
  std::int64_t step() const;
  std::int64_t epoch() const;
  std::int64_t finished() const;  // the last step that was over, saved or not
  std::int64_t every() const;     // steps between two saves, as it was then
  const MemoryStateInfo& info() const;
  const std::vector<NamedTensor>& weights() const;  // views
  const std::vector<NamedTensor>& optimizer() const;
  const std::vector<NamedTensor>& compression() const;
  // All of it, for another host.
  std::span<const std::byte> front() const;
  std::span<const std::byte> payload() const;

 private:
  struct Impl;
  explicit MemoryState(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
