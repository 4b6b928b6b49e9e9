#include "launcher/newest_state.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "core/base/error.h"
#include "core/base/log.h"

namespace peal {
namespace {

constexpr double kShare = 0.01;  // of the time of steps, so that 2% are not passed
constexpr std::int64_t kMostSteps = 10000;

Tensor bytes_of(std::span<const std::byte> bytes) {
  return {.data = const_cast<std::byte*>(bytes.data()),
          .shape = {static_cast<std::int64_t>(bytes.size())},
          .dtype = DType::u8};
}

std::size_t free_bytes(const std::filesystem::path& folder) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) return 0;
  return static_cast<std::size_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace

NewestState::NewestState(Communicator& comm, std::uint64_t run) : comm_(comm), run_(run) {}

std::optional<MemoryState> NewestState::open_own(std::uint64_t job_hash) const {
  if (!keeps()) return std::nullopt;
  try {
    std::optional<MemoryState> mine = MemoryState::open(memory_state_path(run_), log::warn);
    if (!mine || mine->info().job_hash == job_hash) return mine;
    log::warn(cat(mine->where(), ": is the state of another job and passed over"));
  } catch (const Error& error) {  // no right to read it
    log::warn(cat(error.what(), "; passed over"));
  }
  return std::nullopt;
}

NewestState::Found NewestState::find(std::uint64_t job_hash) {
  std::optional<MemoryState> mine = open_own(job_hash);
  using Facts = std::array<std::int64_t, 5>;  // step, finished, every, bytes of front and payload
  Facts own = {-1, -1, 0, 0, 0};
  if (mine) {
    own = {mine->step(), mine->finished(), mine->every(),
           static_cast<std::int64_t>(mine->front().size()),
           static_cast<std::int64_t>(mine->payload().size())};
  }
  std::vector<Facts> all(static_cast<std::size_t>(comm_.world_size()));
  const auto tensor = [](void* data, std::size_t facts) {
    return Tensor{
        .data = data, .shape = {static_cast<std::int64_t>(5 * facts)}, .dtype = DType::i64};
  };
  Stream stream;
  comm_.wait(stream, comm_.all_gather(stream, "states in memory", tensor(&own, 1),
                                      tensor(all.data(), all.size())));
  Found found;
  std::size_t giver = 0;
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r][1] > found.finished) {
      found.finished = all[r][1];
      found.every = all[r][2];
    }
    if (all[r][0] > all[giver][0]) giver = r;
  }
  if (all[giver][0] < 0) return found;
  found.step = all[giver][0];
  found.host = comm_.rank_name(static_cast<int>(giver));
  receive(found, static_cast<int>(giver), all[giver][3], all[giver][4], mine);
  return found;
}

// Cost: the bytes of one state from the rank that has it to rank 0, which gives it to all.
void NewestState::receive(Found& found, int giver, std::int64_t front, std::int64_t payload,
                          std::optional<MemoryState>& mine) {
  if (giver == 0) {
    if (mine) found.state.emplace(std::move(*mine));
    return;
  }
  Stream stream;
  if (comm_.rank() == giver) {
    comm_.wait(stream, comm_.send(stream, "front of a state", bytes_of(mine->front()), 0));
    comm_.wait(stream, comm_.send(stream, "state", bytes_of(mine->payload()), 0));
  }
  if (comm_.rank() != 0) return;
  received_ = Buffer(static_cast<std::size_t>(front + payload));
  const std::span<const std::byte> all(received_.data(), received_.size());
  const auto head = all.first(static_cast<std::size_t>(front));
  const auto rest = all.subspan(static_cast<std::size_t>(front));
  comm_.wait(stream, comm_.recv(stream, "front of a state", bytes_of(head), giver));
  comm_.wait(stream, comm_.recv(stream, "state", bytes_of(rest), giver));
  found.state = MemoryState::read(head, rest, cat("memory of ", found.host));
  if (!found.state) {
    fail_internal(cat("memory of ", found.host), "its state was whole there and is not here");
  }
}

void NewestState::begin(const MemoryStateInfo& info, const Tensors& tensors, bool in_parts,
                        std::int64_t step, std::int64_t epoch, Collect how) {
  saved_ = step;
  collect_ = std::move(how);
  if (keeps() && (!in_parts || comm_.rank() == 0)) {
    or_go_without([&] { make_writer(info, tensors); });
  }
  collect();
  if (writer_) or_go_without([&] { writer_->save(step, epoch); });
}

void NewestState::or_go_without(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    writer_.reset();
    log::warn(cat(error.what(), "; ", comm_.rank_name(comm_.rank()),
                  " goes on with checkpoints on disk only"));
  }
}

void NewestState::make_writer(const MemoryStateInfo& info, const Tensors& tensors) {
  const std::filesystem::path path = memory_state_path(run_);
  const std::size_t needed =
      MemoryStateWriter::bytes(info, tensors.weights, tensors.optimizer, tensors.compression);
  // What an earlier start left is not needed any more, now that the ranks have it.
  if (free_bytes(path.parent_path()) < needed) remove_memory_state(run_);
  const std::size_t room = free_bytes(path.parent_path());
  if (room < needed) {
    fail_input(path.parent_path().string(), "has ", human_bytes(static_cast<double>(room)),
               " free, the newest state needs ", human_bytes(static_cast<double>(needed)));
  }
  writer_ = std::make_unique<MemoryStateWriter>(path, info, tensors.weights, tensors.optimizer,
                                                tensors.compression);
}

void NewestState::collect() {
  static const std::vector<NamedTensor> kNone;
  collect_(writer_ ? writer_->optimizer_room() : kNone);
}

void NewestState::save(std::int64_t step, std::int64_t epoch) {
  const auto begun = std::chrono::steady_clock::now();
  saved_ = step;
  collect();
  if (writer_) writer_->save(step, epoch);
  promised_ = every_;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  recent_[static_cast<std::size_t>(saves_) % recent_.size()] = seconds;
  all_seconds_ += seconds;
  ++saves_;
}

double NewestState::seconds() {
  const auto count = std::min(static_cast<std::size_t>(saves_), recent_.size());
  if (count == 0) return 0;
  sorted_ = recent_;
  const auto middle = sorted_.begin() + static_cast<std::ptrdiff_t>(count / 2);
  std::nth_element(sorted_.begin(), middle, sorted_.begin() + static_cast<std::ptrdiff_t>(count));
  return *middle;
}

void NewestState::set_every(std::int64_t steps) {
  every_ = steps;
  promised_ = std::max(promised_, steps);
}

void NewestState::finished(std::int64_t step) {
  if (writer_) writer_->finished(step, promised_);
}

void NewestState::remove() {
  writer_.reset();
  if (keeps()) remove_memory_state(run_);
}

std::int64_t steps_between_states(double save_seconds, double step_seconds) {
  if (!(step_seconds > 0)) return 1;
  const double steps = std::ceil(save_seconds / (kShare * step_seconds));
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::min(steps, 1e9)), 1, kMostSteps);
}

}  // namespace peal
