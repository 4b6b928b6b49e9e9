// What one call of a kernel touches of the host's memory, and its copy on a device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/base/checksum.h"
#include "core/kernels/kernels.h"
#include "tests/test_device.h"

namespace peal {

using Tensors = std::vector<Tensor>;

// A hash of all that the calls of this process wrote, for the file that PEAL_TEST_BITS names: two
// runs of the same tests must give one.
class BitsRecord {
 public:
  ~BitsRecord() {
    if (file_ != nullptr) std::ofstream(file_) << hex(hash_) << '\n';
  }
  bool wanted() const { return file_ != nullptr; }
  void add(std::uint64_t of_call) {
    const std::lock_guard lock(mutex_);
    hash_ = xxh64(&of_call, sizeof(of_call), hash_);
  }

 private:
  const char* file_ = std::getenv("PEAL_TEST_BITS");
  std::mutex mutex_;
  std::uint64_t hash_ = 0;
};

inline BitsRecord& bits_record() {
  static BitsRecord record;
  return record;
}

// Tensors that overlap share one region, so that what is in place on the host is so on the device.
// What a call only writes holds NaNs before it, and around each region lie guards of NaNs that must
// be there after it; what a call only reads must be as it was. A tensor's address modulo 64 is the
// same on the device.
//
// With PEAL_TEST_EXACT set there are no guards: a region then ends where its allocation does, so
// that a memory checker sees whatever is read or written outside.
class Mirror {
 public:
  static bool exact() {
    static const bool set = std::getenv("PEAL_TEST_EXACT") != nullptr;
    return set;
  }

  // What is read and written stands in both lists.
  Mirror(const Device& device, std::string kernel, Tensors reads_, Tensors writes_)
      : stream(device),
        reads(std::move(reads_)),
        writes(std::move(writes_)),
        kernel_(std::move(kernel)) {
    for (const Tensor& t : reads) add(t, true, false);
    for (const Tensor& t : writes) add(t, false, true);
    merge();
    for (Region& region : regions_) {
      region.offset = guard() + reinterpret_cast<std::uintptr_t>(region.begin) % kAlignment;
      region.before.assign(region.offset + static_cast<std::size_t>(region.size()) + guard(), kNan);
      if (region.read) {
        std::copy(region.begin, region.end, region.before.data() + region.offset);
      }
      region.copy = Buffer(region.before.size(), device);
      to_device(stream, region.copy.data(), region.before.data(), region.before.size());
    }
    for (Tensor& t : reads) translate(t);
    for (Tensor& t : writes) translate(t);
  }

  // After the call: throws when it wrote anything but its outputs.
  void fetch() {
    for (Region& region : regions_) {
      region.after = from_device<std::byte>(stream, region.copy.data(), region.before.size());
      const auto is_nan = [](std::byte b) { return b == kNan; };
      if (!std::all_of(region.after.cbegin(), region.tensor(), is_nan) ||
          !std::all_of(region.tensor() + region.size(), region.after.cend(), is_nan)) {
        throw std::runtime_error(kernel_ + " wrote outside of its tensors");
      }
      if (!region.written && region.after != region.before) {
        throw std::runtime_error(kernel_ + " changed what it may only read");
      }
    }
  }
  // Of two calls that have been fetched; `scratch` may differ.
  void expect_same_bits(const Mirror& other, const Tensor& scratch) const {
    for (std::size_t i = 0; i < regions_.size(); ++i) {
      if (regions_[i].begin == scratch.as<std::byte>()) continue;
      if (regions_[i].after != other.regions_[i].after) {
        throw std::runtime_error(kernel_ + " gave other bits when it was called again");
      }
    }
  }
  void copy_back(const Tensor& scratch) const {
    std::uint64_t bits = 0;  // a sum: regions are in the order of their addresses
    for (const Region& region : regions_) {
      if (!region.written) continue;
      std::copy(region.tensor(), region.tensor() + region.size(), region.begin);
      if (!bits_record().wanted() || region.begin == scratch.as<std::byte>()) continue;
      bits += xxh64(region.begin, static_cast<std::size_t>(region.size()));
    }
    if (bits_record().wanted()) bits_record().add(bits);
  }

  Stream stream;
  Tensors reads, writes;  // on the device

 private:
  static constexpr std::byte kNan{0xff};

  struct Region {
    std::byte *begin = nullptr, *end = nullptr;  // on the host
    bool read = false, written = false;
    std::size_t offset = 0;  // of `begin`'s copy
    std::vector<std::byte> before, after;
    Buffer copy;

    std::ptrdiff_t size() const { return end - begin; }
    std::vector<std::byte>::const_iterator tensor() const {
      return after.begin() + static_cast<std::ptrdiff_t>(offset);
    }
  };

  static std::size_t guard() { return exact() ? 0 : 4 * kAlignment; }

  void add(const Tensor& t, bool read, bool written) {
    const std::size_t bytes = layout_bytes(t);
    if (t.empty() || bytes == 0) return;
    auto* begin = t.as<std::byte>();
    regions_.push_back({begin, begin + bytes, read, written, 0, {}, {}, {}});
  }

  void merge() {
    std::sort(regions_.begin(), regions_.end(),
              [](const Region& a, const Region& b) { return a.begin < b.begin; });
    std::vector<Region> merged;
    for (Region& region : regions_) {
      if (merged.empty() || region.begin >= merged.back().end) {
        merged.push_back(std::move(region));
        continue;
      }
      Region& last = merged.back();
      last.end = std::max(last.end, region.end);
      last.read = last.read || region.read;
      last.written = last.written || region.written;
    }
    regions_ = std::move(merged);
  }

  void translate(Tensor& t) const {
    t.device = stream.device();
    auto* data = t.as<std::byte>();
    for (const Region& region : regions_) {
      if (data < region.begin || data >= region.end) continue;
      t.data = region.copy.data() + region.offset + (data - region.begin);
      return;
    }
  }

  std::string kernel_;
  std::vector<Region> regions_;
};

// Calls function(stream, reads, writes) with copies on the device: twice, on copies that lie
// elsewhere, which must give the same bits but for what `scratch` holds, one of the writes. Once
// where PEAL_TEST_EXACT is set.
template <typename Function>
void mirrored(const Device& device, const char* kernel, const Tensors& reads, const Tensors& writes,
              const Function& function, const Tensor& scratch = {}) {
  Mirror mirror(device, kernel, reads, writes);
  function(mirror.stream, mirror.reads, mirror.writes);
  mirror.fetch();
  if (!Mirror::exact()) {
    Mirror again(device, kernel, reads, writes);
    function(again.stream, again.reads, again.writes);
    again.fetch();
    mirror.expect_same_bits(again, scratch);
  }
  mirror.copy_back(scratch);
}

// The same on the device that tests run on; on the CPU with the tensors as they are.
template <typename Function>
void on_test_device(const char* kernel, const Tensors& reads, const Tensors& writes,
                    const Function& function) {
  if (test_device().mirrored)
    return mirrored(test_device().device, kernel, reads, writes, function);
  Stream s;
  function(s, reads, writes);
}

}  // namespace peal
