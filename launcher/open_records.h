// The records of a job on every rank: opened where they lie, or fetched to the host's own disk
// first.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "core/config/job.pb.h"
#include "core/data/dataset.h"

namespace peal {

// Told on rank 0 what takes long; empty: nobody is.
using Say = std::function<void(const std::string&)>;

// Collective; throws the same Error on every rank. window_shards 0: all of it is there on return.
// Else shards that are fetched come as a loader wants them. `seed` is the job's.
std::shared_ptr<Dataset> open_records(const SourceSpec& spec, std::int64_t window_shards,
                                      std::uint64_t seed, Communicator& comm, const Say& say);

// Waits until what `dataset` wants at once is there on every rank. Collective; ranks that wait for
// others hear from them all the time, so that no deadline of `comm` counts against a long fetch.
void await_records(const Dataset& dataset, Communicator& comm, const Say& say);

// Whether shards are copied or streamed before they are read.
bool is_fetched(const SourceSpec& spec);

}  // namespace peal
