// The weights of a checkpoint under the model of a job, without anything of training.
#pragma once

#include "core/config/job.pb.h"
#include "core/device/buffer.h"
#include "core/graph/plan.h"
#include "core/state/checkpoint.h"

namespace peal {

class ModelWeights {
 public:
  // Throws Error(input) where the checkpoint is of another model.
  ModelWeights(const ModelSpec& spec, const Checkpoint& checkpoint);

  const ParameterTable& table() const { return table_; }
  // `plan` is of a graph with this table, and lives no longer than this.
  void bind(Plan& plan) const { plan.bind(parameters_.data(), states_.data()); }

 private:
  ParameterTable table_;
  Buffer parameters_, states_;
};

}  // namespace peal
