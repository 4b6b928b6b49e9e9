// Weights under the model of a job, without anything of training.
#pragma once

#include <filesystem>
#include <vector>

#include "core/config/job.pb.h"
#include "core/device/buffer.h"
#include "core/graph/plan.h"
#include "core/state/checkpoint.h"

namespace peal {

class ModelWeights {
 public:
  // Throws Error(input) where the checkpoint is of another model.
  ModelWeights(const ModelSpec& spec, const Checkpoint& checkpoint);
  // The same of a file that any program saved (core/state/weights_file.h).
  ModelWeights(const ModelSpec& spec, const std::filesystem::path& file);

  const ParameterTable& table() const { return table_; }
  // `plan` is of a graph with this table, and lives no longer than this.
  void bind(Plan& plan) const { plan.bind(parameters_.data(), states_.data()); }

 private:
  explicit ModelWeights(const ModelSpec& spec);
  std::vector<NamedTensor> tensors() const;

  ParameterTable table_;
  Buffer parameters_, states_;
};

}  // namespace peal
