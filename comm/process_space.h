// Memory that the processes of one host share: anonymous files (memfd) that peers open through
// /proc, so that nothing has a name that could be left behind, however a process ends.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "comm/shared.h"

namespace peal {

// One mapping of a shared anonymous file.
class SharedMapping {
 public:
  // How a peer finds the file: plain numbers that can travel in a message. fd < 0: none.
  struct Address {
    std::int64_t process = 0, fd = -1;
  };

  SharedMapping() = default;
  ~SharedMapping();
  SharedMapping(SharedMapping&& other) noexcept;
  SharedMapping& operator=(SharedMapping&& other) noexcept;

  // Both return an empty mapping when the system refuses. From 2 MiB on it lies in huge pages where
  // the kernel gives them, and takes up a whole number of these.
  static SharedMapping create(std::size_t bytes);
  static SharedMapping open(const Address& address, std::size_t bytes);

  std::byte* data() const { return data_; }
  bool empty() const { return data_ == nullptr; }
  Address address() const;
  void close_file();  // peers have opened it; the memory stays

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  int fd_ = -1;
};

class ProcessSpace final : public SharedSpace {
 public:
  // `construct` on the one rank that created the control block.
  ProcessSpace(SharedMapping control, int ranks, int rank, bool construct);

  // Memory of equal size from every rank, mapped here in rank order. Every rank adds the same
  // regions in the same order.
  std::int64_t add(std::vector<SharedMapping> of_ranks, std::size_t bytes);
  void remove(std::int64_t region);

  bool locate(const std::byte* data, std::size_t bytes, Location& location) const override;
  std::byte* resolve(int rank, const Location& location) const override;
  bool alive(int rank) const override;

  // Where the kernel lets processes of one user read each other (process_vm_readv). Whether this
  // rank can read all the others, which have attached; all of them can before fetches are allowed.
  bool can_fetch() const;
  void allow_fetches() { fetches_ = true; }
  bool fetches() const override { return fetches_; }
  bool fetch(int rank, std::byte* to, const std::byte* from, std::size_t bytes) const override;

 private:
  struct Region {
    std::vector<SharedMapping> of_ranks;
    std::size_t bytes = 0;
  };
  SharedMapping control_;
  int rank_;
  bool fetches_ = false;
  mutable std::mutex mutex_;
  std::map<std::int64_t, Region> regions_;
  std::int64_t next_ = 0;
};

}  // namespace peal
