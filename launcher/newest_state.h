// The newest finished step of a run in the memory of its hosts, so that a start after a failure
// reads no disk. The first rank of each host keeps it: data parallelism means that every host has
// everything. Where ranks hold parts of it (what compression keeps, a sharded optimizer's state),
// rank 0 collects them and its host alone keeps it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/device/buffer.h"
#include "core/state/memory_state.h"

namespace peal {

class NewestState {
 public:
  // `run`: the number of the run (RunDirectory). Collective calls are marked; all ranks make them
  // alike.
  NewestState(Communicator& comm, std::uint64_t run);

  struct Found {
    std::int64_t step = -1;            // -1: no host holds a whole state of this job
    std::int64_t finished = -1;        // the last step that was over on any host
    std::int64_t every = 0;            // steps between two states, as it was then
    std::string host;                  // "rank 2 (h3)"
    std::optional<MemoryState> state;  // on rank 0, until drop_found()
  };
  // What any host holds; rank 0 gets it. Damaged copies are named and passed over. Collective.
  Found find(std::uint64_t job_hash);
  void drop_found() { received_ = Buffer(); }

  struct Tensors {
    std::vector<NamedTensor> weights, optimizer, compression;
  };
  // Brings the tensors up to date, and puts those of the optimizer that have no memory into `room`,
  // which is empty on ranks that keep nothing.
  using Collect = std::function<void(const std::vector<NamedTensor>& room)>;
  // From now on states are kept, this one first. With `in_parts` rank 0 alone keeps them. Where
  // /dev/shm has no room, that host goes without, and says so once. Collective, if `how` is.
  void begin(const MemoryStateInfo& info, const Tensors& tensors, bool in_parts, std::int64_t step,
             std::int64_t epoch, Collect how);
  bool due(std::int64_t step) const { return every_ > 0 && step - saved_ >= every_; }
  void save(std::int64_t step, std::int64_t epoch);  // collective, if `collect` is
  void finished(std::int64_t step);

  // Steps from one state to the next; 0: none are kept.
  void set_every(std::int64_t steps);
  std::int64_t every() const { return every_; }
  double seconds();                                    // of a save: median of the last five
  double all_seconds() const { return all_seconds_; }  // of all saves
  std::int64_t saves() const { return saves_; }

  // The run is over, or its newest state is on disk: the memory of this host is given back.
  void remove();

 private:
  bool keeps() const { return comm_.local_rank() == 0; }
  void make_writer(const MemoryStateInfo& info, const Tensors& tensors);
  void collect();
  void or_go_without(const std::function<void()>& work);
  void receive(Found& found, int giver, std::int64_t front, std::int64_t payload,
               std::optional<MemoryState>& mine);
  std::optional<MemoryState> open_own(std::uint64_t job_hash) const;

  Communicator& comm_;
  std::uint64_t run_;
  std::unique_ptr<MemoryStateWriter> writer_;  // none where this rank keeps nothing
  Collect collect_;
  Buffer received_;
  std::int64_t every_ = 0, saved_ = 0, saves_ = 0;
  std::int64_t promised_ = 0;  // the most that every_ was since the last save
  std::array<double, 5> recent_{}, sorted_{};
  double all_seconds_ = 0;
};

// Steps between two states so that they cost 1% of the time, given what one save takes and one
// step. At least 1.
std::int64_t steps_between_states(double save_seconds, double step_seconds);

}  // namespace peal
