// Whether a model gives the logits that another program gave, with the same weights:
//   model_logits JOB FOLDER
// JOB names the model; FOLDER holds model.safetensors and, in the format of tests/golden,
// expected.bin with "x" (B, record...) and "logits" (B, classes). Prints the largest difference;
// exit code 1 when it is above 1e-4.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "core/base/error.h"
#include "core/config/job.h"
#include "core/graph/plan.h"
#include "launcher/job_setup.h"
#include "tests/golden/golden_file.h"

namespace peal {
namespace {

constexpr double kTolerance = 1e-4;

// A plan for evaluation with its memory.
struct Model {
  Model(const ModelSpec& spec, const std::filesystem::path& file, std::int64_t records) {
    build_model(spec, records, graph);
    table = make_parameter_table(graph);
    parameters = Buffer(table.gradient_bytes);
    states = Buffer(table.state_bytes);
    std::vector<NamedTensor> weights;
    for (const ArenaEntry& e : table.parameters)
      weights.push_back({e.name, {.data = parameters.data() + e.offset, .shape = e.shape}});
    for (const ArenaEntry& e : table.states)
      weights.push_back({e.name, {.data = states.data() + e.offset, .shape = e.shape}});
    load_weights(spec, file, weights);
    plan = std::make_unique<Plan>(graph, table, kCpu, /*training=*/false);
    plan->bind(parameters.data(), states.data());
    labels = Buffer(static_cast<std::size_t>(records) * sizeof(float));
    weight = Buffer(static_cast<std::size_t>(records) * sizeof(float));
    plan->set_input("labels", {.data = labels.data(), .shape = {records}, .dtype = DType::i32});
    plan->set_input("weight", {.data = weight.data(), .shape = {records}});
  }

  Graph graph;
  ParameterTable table;
  Buffer parameters, states, labels, weight;
  std::unique_ptr<Plan> plan;
};

int compare(const std::filesystem::path& job, const std::filesystem::path& folder) {
  const golden::Arrays arrays = golden::read_file(folder / "expected.bin");
  const golden::Array &x = arrays.at("x"), &logits = arrays.at("logits");
  Model model(load_job(job).model(), folder / "model.safetensors", x.shape[0]);
  Buffer input(x.f32.size() * sizeof(float));
  std::copy(x.f32.begin(), x.f32.end(), reinterpret_cast<float*>(input.data()));
  model.plan->set_input("x", {.data = input.data(), .shape = x.shape});
  Stream stream;
  model.plan->forward(stream, {}, nullptr);
  const auto* actual = model.plan->output("logits").as<float>();
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < logits.f32.size(); ++i) {
    difference = std::max(difference, std::abs(double{actual[i]} - double{logits.f32[i]}));
    largest = std::max(largest, std::abs(double{logits.f32[i]}));
  }
  std::printf("%zu logits up to %.3f; largest difference %.2e (allowed %.0e)\n", logits.f32.size(),
              largest, difference, kTolerance);
  return difference <= kTolerance ? 0 : 1;
}

}  // namespace
}  // namespace peal

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: model_logits JOB FOLDER\n", stderr);
    return 2;
  }
  try {
    return peal::compare(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_logits: %s\n", error.what());
    return 2;
  }
}
