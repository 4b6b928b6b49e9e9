// The table of chosen algorithms that a job names (train.algorithms), the same on every rank.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "core/config/job.pb.h"
#include "core/graph/plan.h"
#include "core/kernels/algorithm_choices.h"

namespace peal {

// nullptr where the job names none. Rank 0 reads the file and gives it to the others. Its digest is
// written into the job, as bits depend on it, or is the one that stands there. Error(input), alike
// on every rank, when the file is no table or has another digest. Collective.
std::shared_ptr<const AlgorithmChoices> share_algorithms(JobSpec& job, Communicator& comm);

// What a Plan on a device asks that has the ways of `library` (Kernels::algorithm_library).
// Throws Error(input) that names `file` when the table was made on another, as its numbers would
// mean other ways. Of no table: nothing to ask.
ChooseAlgorithm choose_by(std::shared_ptr<const AlgorithmChoices> table, const std::string& file,
                          const std::string& library);

}  // namespace peal
