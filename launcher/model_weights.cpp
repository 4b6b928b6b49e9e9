#include "launcher/model_weights.h"

#include "launcher/evaluation.h"

namespace peal {
namespace {

ParameterTable table_of(const ModelSpec& spec) {
  Graph graph;
  build_model(spec, /*batch=*/1, graph);
  add_stop_slot(graph);
  return make_parameter_table(graph);
}

}  // namespace

ModelWeights::ModelWeights(const ModelSpec& spec, const Checkpoint& checkpoint)
    : table_(table_of(spec)), parameters_(table_.gradient_bytes), states_(table_.state_bytes) {
  std::vector<NamedTensor> weights;
  for (const ArenaEntry& e : table_.parameters) {
    weights.push_back({e.name, {.data = parameters_.data() + e.offset, .shape = e.shape}});
  }
  for (const ArenaEntry& e : table_.states) {
    weights.push_back({e.name, {.data = states_.data() + e.offset, .shape = e.shape}});
  }
  checkpoint.load_weights(weights);
}

}  // namespace peal
