// Measures a model on test records.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/data/preprocess.h"
#include "core/graph/plan.h"
#include "launcher/mirror.h"
#include "models/model.h"

namespace peal {

// The slot in which ranks tell each other that somebody asked for the end; part of every graph of
// the launcher, so that training and evaluation have equal tables.
void add_stop_slot(Graph& graph);

class Evaluation {
 public:
  Evaluation(const ModelSpec& spec, const ParameterTable& table,
             std::shared_ptr<const Dataset> dataset, std::shared_ptr<const Preprocess> preprocess,
             std::int64_t batch, Precision precision, const Device& device = kCpu,
             const ChooseAlgorithm& choose = {});

  Plan& plan() { return *plan_; }
  const Plan& plan() const { return *plan_; }
  // {"test_loss", "test_accuracy"}: means over the records; of a language model "test_perplexity",
  // exp of the loss, too. Chunks of `batch` records are dealt to
  // the ranks and summed in the order of the chunks: the same bits for any number of ranks.
  std::map<std::string, double> run(Communicator& comm);

 private:
  void fill(std::int64_t chunk);
  void fill_record(std::int64_t row, std::int64_t record);

  Graph graph_;
  ModelInfo model_;
  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<const Preprocess> preprocess_;
  std::int64_t batch_;
  std::unique_ptr<Plan> plan_;
  Mirror x_, labels_, weight_, stop_;
  Stream stream_;
};

}  // namespace peal
