// A file: a page with Head, the index (MemoryStateIndex), two slots of tensors, each part at a
// page.
#include "core/state/memory_state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/device/buffer.h"
#include "core/state/manifest.pb.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMagic = 0x314d454d4c414550;  // "PEALMEM1"
constexpr std::size_t kPage = 4096;
constexpr std::size_t kChunk = std::size_t{128} << 10;  // copied and hashed while in the cache
constexpr int kSlots = 2;

struct SlotHead {
  std::int64_t step = 0, epoch = 0;
  std::uint64_t payload = 0;  // checksum of the slot
  std::uint64_t check = 0;    // of the above; 0 while the slot is written
};

struct Head {
  std::uint64_t magic = 0, index_bytes = 0, index_hash = 0, slot_bytes = 0;
  std::uint64_t check = 0;                // of the above
  std::int64_t finished = -1, every = 0;  // written every step
  std::array<SlotHead, kSlots> slots;
};
static_assert(sizeof(Head) <= kPage);

std::size_t pages(std::size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

std::uint64_t check_of(const Head& head) {
  return xxh64(&head, offsetof(Head, check));
}

// Never 0, which says that the slot is being written.
std::uint64_t check_of(const SlotHead& slot, std::uint64_t index_hash) {
  return xxh64(&slot, offsetof(SlotHead, check), index_hash) | 1;
}

std::size_t slot_offset(const Head& head, int slot) {
  return kPage + pages(head.index_bytes) + static_cast<std::size_t>(slot) * head.slot_bytes;
}

// The bytes of a slot in its order; padding between tensors is left out.
std::uint64_t hash_chunks(const std::byte* data, std::size_t bytes, std::uint64_t hash) {
  for (std::size_t at = 0; at < bytes; at += kChunk) {
    hash = xxh64(data + at, std::min(kChunk, bytes - at), hash);
  }
  return hash;
}

std::uint64_t copy_chunks(std::byte* to, const std::byte* from, std::size_t bytes,
                          std::uint64_t hash) {
  for (std::size_t at = 0; at < bytes; at += kChunk) {
    const std::size_t n = std::min(kChunk, bytes - at);
    std::memcpy(to + at, from + at, n);
    hash = xxh64(to + at, n, hash);
  }
  return hash;
}

struct Content {
  MemoryStateIndex index;
  std::vector<NamedTensor> tensors;  // in the index's order
  std::size_t slot_bytes = 0;
};

Content describe(const MemoryStateInfo& info,
                 const std::array<const std::vector<NamedTensor>*, 3>& parts) {
  Content content;
  content.index.set_job(info.job);
  content.index.set_job_hash(info.job_hash);
  Arena arena;
  for (std::size_t part = 0; part < parts.size(); ++part) {
    for (const NamedTensor& t : *parts[part]) {
      if (t.tensor.layout != nullptr || !(t.tensor.device == kCpu)) {
        fail_internal(t.name, "a state in memory takes row-major tensors on the CPU");
      }
      MemoryStateIndex::Entry& entry = *content.index.add_tensor();
      entry.set_name(t.name);
      entry.set_part(static_cast<int>(part));
      entry.set_dtype(static_cast<int>(t.tensor.dtype));
      for (const std::int64_t dim : t.tensor.shape) entry.add_dim(dim);
      entry.set_offset(arena.reserve(t.tensor.bytes()));
      content.tensors.push_back(t);
    }
  }
  content.slot_bytes = pages(arena.size());
  return content;
}

// Whether all tensors lie in a slot, as describe() would have put them there.
bool lie_in_slot(const MemoryStateIndex& index, std::uint64_t slot_bytes) {
  for (const MemoryStateIndex::Entry& entry : index.tensor()) {
    const bool is_dtype = entry.dtype() >= 0 && entry.dtype() <= static_cast<int>(DType::boolean);
    if (entry.part() < 0 || entry.part() > 2 || !is_dtype) return false;
    if (entry.dim_size() > Shape::kMaxRank || entry.offset() % kAlignment != 0) return false;
    std::uint64_t bytes = size_of(static_cast<DType>(entry.dtype()));
    for (const std::int64_t dim : entry.dim()) {
      if (dim < 0 || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dim), &bytes)) {
        return false;
      }
    }
    if (entry.offset() > slot_bytes || bytes > slot_bytes - entry.offset()) return false;
  }
  return true;
}

void ignore(const std::string&) {}

}  // namespace

fs::path memory_state_path(std::uint64_t run) {
  return "/dev/shm/peal-state-" + hex(run);
}

void remove_memory_state(std::uint64_t run) {
  const fs::path path = memory_state_path(run);
  ::unlink(path.c_str());
  ::unlink((path.string() + ".new").c_str());
}

struct MemoryStateWriter::Impl {
  fs::path path, temporary;
  Content content;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  bool in_place = false;
  int next = 0;
  std::array<std::vector<NamedTensor>, kSlots> rooms;  // the optimizer's tensors in each slot

  ~Impl() {
    if (data != nullptr) ::munmap(data, bytes);
    if (!in_place) ::unlink(temporary.c_str());
  }
  Head& head() { return *reinterpret_cast<Head*>(data); }

  // The memory is taken now, so that a full /dev/shm is an error here and no SIGBUS in a step.
  void create() {
    ::unlink(temporary.c_str());
    const int file = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) fail_input(temporary.string(), "cannot create: ", std::strerror(errno));
    const int failed = ::posix_fallocate(file, 0, static_cast<off_t>(bytes));
    void* map = MAP_FAILED;
    if (failed == 0) {
      map = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    }
    const int error = failed != 0 ? failed : errno;
    ::close(file);
    if (map == MAP_FAILED) {
      fail_input(temporary.string(), "has no room for ", human_bytes(static_cast<double>(bytes)),
                 ": ", std::strerror(error));
    }
    data = static_cast<std::byte*>(map);
  }

  void write_index(const std::string& index) {
    std::memcpy(data + kPage, index.data(), index.size());
    Head& h = head();
    h.magic = kMagic;
    h.index_bytes = index.size();
    h.index_hash = xxh64(index.data(), index.size());
    h.slot_bytes = content.slot_bytes;
    h.check = check_of(h);
  }

  std::uint64_t copy_into(std::byte* slot) {
    std::uint64_t hash = 0;
    for (std::size_t i = 0; i < content.tensors.size(); ++i) {
      const Tensor& t = content.tensors[i].tensor;
      const std::size_t offset = content.index.tensor(static_cast<int>(i)).offset();
      hash = t.data == nullptr
                 ? hash_chunks(slot + offset, t.bytes(), hash)
                 : copy_chunks(slot + offset, t.as<const std::byte>(), t.bytes(), hash);
    }
    return hash;
  }

  void make_rooms(std::size_t first, std::size_t count) {
    for (int k = 0; k < kSlots; ++k) {
      for (std::size_t i = first; i < first + count; ++i) {
        NamedTensor t = content.tensors[i];
        t.tensor.data =
            data + slot_offset(head(), k) + content.index.tensor(static_cast<int>(i)).offset();
        rooms[static_cast<std::size_t>(k)].push_back(std::move(t));
      }
    }
  }
};

std::size_t MemoryStateWriter::bytes(const MemoryStateInfo& info,
                                     const std::vector<NamedTensor>& weights,
                                     const std::vector<NamedTensor>& optimizer,
                                     const std::vector<NamedTensor>& compression) {
  const Content content = describe(info, {&weights, &optimizer, &compression});
  return kPage + pages(content.index.SerializeAsString().size()) + kSlots * content.slot_bytes;
}

MemoryStateWriter::MemoryStateWriter(const fs::path& path, const MemoryStateInfo& info,
                                     const std::vector<NamedTensor>& weights,
                                     const std::vector<NamedTensor>& optimizer,
                                     const std::vector<NamedTensor>& compression)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->temporary = path.string() + ".new";
  impl_->content = describe(info, {&weights, &optimizer, &compression});
  const std::string index = impl_->content.index.SerializeAsString();
  impl_->bytes = kPage + pages(index.size()) + kSlots * impl_->content.slot_bytes;
  impl_->create();
  impl_->write_index(index);
  impl_->make_rooms(weights.size(), optimizer.size());
}

MemoryStateWriter::~MemoryStateWriter() = default;

const std::vector<NamedTensor>& MemoryStateWriter::optimizer_room() {
  const auto k = static_cast<std::size_t>(impl_->next);
  std::atomic_ref(impl_->head().slots[k].check).store(0);  // no state while it is being written
  return impl_->rooms[k];
}

// Cost: one read and one write of the tensors' bytes; the checksum finds them in the cache.
void MemoryStateWriter::save(std::int64_t step, std::int64_t epoch) {
  Head& head = impl_->head();
  const int k = impl_->next;
  SlotHead& slot = head.slots[static_cast<std::size_t>(k)];
  std::atomic_ref(slot.check).store(0);
  slot.step = step;
  slot.epoch = epoch;
  slot.payload = impl_->copy_into(impl_->data + slot_offset(head, k));
  std::atomic_ref(slot.check).store(check_of(slot, head.index_hash));
  finished(std::max(step, head.finished), head.every);
  impl_->next = (k + 1) % kSlots;
  if (impl_->in_place) return;
  if (::rename(impl_->temporary.c_str(), impl_->path.c_str()) != 0) {
    fail_input(impl_->path.string(), "cannot rename to: ", std::strerror(errno));
  }
  impl_->in_place = true;
}

void MemoryStateWriter::finished(std::int64_t step, std::int64_t every) {
  Head& head = impl_->head();
  std::atomic_ref(head.every).store(every, std::memory_order_relaxed);
  std::atomic_ref(head.finished).store(step, std::memory_order_relaxed);
}

struct MemoryState::Impl {
  std::string where;
  std::unique_ptr<MappedFile> file;  // none: the bytes are somebody else's
  std::span<const std::byte> front_bytes, payload_bytes;
  std::int64_t step = 0, epoch = 0, finished = 0, every = 0;
  MemoryStateInfo info;
  MemoryStateIndex index;
  std::array<std::vector<NamedTensor>, 3> parts;

  // Head and index; false and a word where they are damaged.
  bool read_front(std::span<const std::byte> bytes, Head& head) {
    if (bytes.size() < kPage) return false;
    std::memcpy(&head, bytes.data(), sizeof head);
    if (head.magic != kMagic || head.check != check_of(head)) return false;
    const std::size_t behind = bytes.size() - kPage;
    if (head.index_bytes > behind || pages(head.index_bytes) > behind) return false;
    const std::byte* text = bytes.data() + kPage;
    if (xxh64(text, head.index_bytes) != head.index_hash) return false;
    if (head.index_bytes > std::numeric_limits<int>::max() ||
        !index.ParseFromArray(text, static_cast<int>(head.index_bytes)) ||
        !lie_in_slot(index, head.slot_bytes)) {
      return false;
    }
    front_bytes = bytes.first(kPage + pages(head.index_bytes));
    finished = head.finished;
    every = head.every;
    info = {index.job(), index.job_hash()};
    return true;
  }

  bool is_whole(const Head& head, const SlotHead& slot, std::span<const std::byte> payload) {
    if (slot.check != check_of(slot, head.index_hash)) return false;
    if (payload.size() != head.slot_bytes) return false;
    std::uint64_t hash = 0;
    for (const MemoryStateIndex::Entry& entry : index.tensor()) {
      const std::size_t bytes = view(entry, payload).tensor.bytes();
      hash = hash_chunks(payload.data() + entry.offset(), bytes, hash);
    }
    return hash == slot.payload;
  }

  static NamedTensor view(const MemoryStateIndex::Entry& entry,
                          std::span<const std::byte> payload) {
    NamedTensor t;
    t.name = entry.name();
    t.tensor.data = const_cast<std::byte*>(payload.data()) + entry.offset();
    t.tensor.shape = Shape(std::vector<std::int64_t>(entry.dim().begin(), entry.dim().end()));
    t.tensor.dtype = static_cast<DType>(entry.dtype());
    return t;
  }

  void take(const SlotHead& slot, std::span<const std::byte> payload) {
    step = slot.step;
    epoch = slot.epoch;
    payload_bytes = payload;
    for (const MemoryStateIndex::Entry& entry : index.tensor()) {
      parts[static_cast<std::size_t>(entry.part())].push_back(view(entry, payload));
    }
  }

  // The newest slot that is whole; `payload_of` says where slot k lies.
  template <typename PayloadOf>
  bool take_newest(const Head& head, const PayloadOf& payload_of,
                   const std::function<void(const std::string&)>& warn) {
    std::array<int, kSlots> order = {0, 1};
    if (head.slots[1].step > head.slots[0].step) std::swap(order[0], order[1]);
    for (const int k : order) {
      const SlotHead& slot = head.slots[static_cast<std::size_t>(k)];
      if (slot.check == 0) continue;  // nothing there yet, or its writer died in it
      if (is_whole(head, slot, payload_of(k))) {
        take(slot, payload_of(k));
        return true;
      }
      warn(cat(where, ": the state of step ", slot.step, " is damaged and passed over"));
    }
    return false;
  }
};

MemoryState::MemoryState(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MemoryState::MemoryState(MemoryState&&) noexcept = default;
MemoryState& MemoryState::operator=(MemoryState&&) noexcept = default;
MemoryState::~MemoryState() = default;

std::optional<MemoryState> MemoryState::open(const fs::path& path,
                                             const std::function<void(const std::string&)>& warn) {
  if (!fs::exists(path)) return std::nullopt;
  auto impl = std::make_unique<Impl>();
  impl->where = path.string();
  impl->file = std::make_unique<MappedFile>(path, MappedFile::Owner::this_user);
  const std::span<const std::byte> bytes(impl->file->data(), impl->file->size());
  Head head;
  const auto holds_slots = [&] {
    const std::size_t rest = bytes.size() - slot_offset(head, 0);
    return rest % kSlots == 0 && head.slot_bytes == rest / kSlots;
  };
  if (!impl->read_front(bytes, head) || !holds_slots()) {
    warn(cat(impl->where, ": is damaged and passed over"));
    return std::nullopt;
  }
  const auto payload_of = [&](int k) {
    return bytes.subspan(slot_offset(head, k), head.slot_bytes);
  };
  if (!impl->take_newest(head, payload_of, warn)) return std::nullopt;
  return MemoryState(std::move(impl));
}

std::optional<MemoryState> MemoryState::read(std::span<const std::byte> front,
                                             std::span<const std::byte> payload,
                                             const std::string& where) {
  auto impl = std::make_unique<Impl>();
  impl->where = where;
  Head head;
  if (!impl->read_front(front, head)) return std::nullopt;
  // Which slot it was is told by the checksum.
  if (!impl->take_newest(
          head, [&](int) { return payload; }, ignore))
    return std::nullopt;
  return MemoryState(std::move(impl));
}

const std::string& MemoryState::where() const {
  return impl_->where;
}
std::int64_t MemoryState::step() const {
  return impl_->step;
}
std::int64_t MemoryState::epoch() const {
  return impl_->epoch;
}
std::int64_t MemoryState::finished() const {
  return impl_->finished;
}
std::int64_t MemoryState::every() const {
  return impl_->every;
}
const MemoryStateInfo& MemoryState::info() const {
  return impl_->info;
}
const std::vector<NamedTensor>& MemoryState::weights() const {
  return impl_->parts[0];
}
const std::vector<NamedTensor>& MemoryState::optimizer() const {
  return impl_->parts[1];
}
const std::vector<NamedTensor>& MemoryState::compression() const {
  return impl_->parts[2];
}
std::span<const std::byte> MemoryState::front() const {
  return impl_->front_bytes;
}
std::span<const std::byte> MemoryState::payload() const {
  return impl_->payload_bytes;
}

}  // namespace peal
