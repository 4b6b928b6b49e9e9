#include "launcher/model_weights.h"

#include "launcher/evaluation.h"
#include "launcher/job_setup.h"

namespace peal {
namespace {

ParameterTable table_of(const ModelSpec& spec) {
  Graph graph;
  build_model(spec, /*batch=*/1, graph);
  add_stop_slot(graph);
  return make_parameter_table(graph);
}

}  // namespace

ModelWeights::ModelWeights(const ModelSpec& spec)
    : table_(table_of(spec)), parameters_(table_.gradient_bytes), states_(table_.state_bytes) {}

ModelWeights::ModelWeights(const ModelSpec& spec, const Checkpoint& checkpoint)
    : ModelWeights(spec) {
  checkpoint.load_weights(tensors());
}

ModelWeights::ModelWeights(const ModelSpec& spec, const std::filesystem::path& file)
    : ModelWeights(spec) {
  load_weights(spec, file, tensors());
}

std::vector<NamedTensor> ModelWeights::tensors() const {
  std::vector<NamedTensor> tensors;
  for (const ArenaEntry& e : table_.parameters) {
    tensors.push_back({e.name, {.data = parameters_.data() + e.offset, .shape = e.shape}});
  }
  for (const ArenaEntry& e : table_.states) {
    tensors.push_back({e.name, {.data = states_.data() + e.offset, .shape = e.shape}});
  }
  return tensors;
}

}  // namespace peal
