// Times a job's steps with the sums of gradients beside backward, after it, and left out.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "launcher/trainer.h"

namespace peal {

enum class OverlapMode : std::uint8_t {
  compute,     // each rank alone with its share of the batch: nothing is summed over ranks
  overlapped,  // as `peal train` runs
  held         // buckets wait until backward has ended
};
inline constexpr std::array kOverlapModes{OverlapMode::compute, OverlapMode::overlapped,
                                          OverlapMode::held};

// Seconds a step, of each round.
struct OverlapTimes {
  std::array<std::vector<double>, kOverlapModes.size()> by_mode;
  std::vector<double>& of(OverlapMode mode) { return by_mode[static_cast<std::size_t>(mode)]; }
  double median(OverlapMode mode);
};

class OverlapBench {
 public:
  // Collective. The job is one for this number of ranks, resolved. A rank holds the model twice.
  OverlapBench(const JobSpec& job, Communicator& comm, const TrainingData& data);

  // Seconds a step, as long as the slowest rank takes. Collective.
  double measure(OverlapMode mode, std::int64_t steps);

  // Of the last step that was measured in mode compute.
  const std::vector<ReadyTime>& ready_times() const { return ready_; }
  double compute_seconds() const { return last_alone_; }

  std::size_t gradient_bytes() const { return trainer_.table().gradient_bytes; }
  int lanes() const { return trainer_.lanes(); }

 private:
  void meet();

  Communicator& comm_;
  Trainer trainer_;
  std::unique_ptr<Communicator> single_ = make_single_communicator();
  Trainer alone_;
  std::int64_t next_ = 0, next_alone_ = 0;
  std::vector<ReadyTime> ready_;
  double last_alone_ = 0;
};

}  // namespace peal
