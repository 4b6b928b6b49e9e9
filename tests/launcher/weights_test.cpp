// A file that PyTorch saved gives the logits that PyTorch gave.
#include <gtest/gtest.h>

#include <cmath>

#include "core/graph/plan.h"
#include "launcher/job_setup.h"
#include "tests/golden/golden_file.h"

namespace peal {
namespace {

TEST(Weights, ThatPyTorchSavedGiveItsLogits) {
  ModelSpec spec;
  ResNetSpec& resnet = *spec.mutable_resnet();
  resnet.set_stem(ResNetSpec::CIFAR);
  resnet.set_block(ResNetSpec::BOTTLENECK);
  resnet.add_blocks(1);
  resnet.add_blocks(1);
  resnet.set_filters(8);
  resnet.set_height(8);
  resnet.set_width(8);
  resnet.set_classes(4);
  Graph graph;
  build_model(spec, 4, graph);
  const ParameterTable table = make_parameter_table(graph);
  Buffer parameters(table.gradient_bytes), states(table.state_bytes);
  std::vector<NamedTensor> weights;
  for (const ArenaEntry& e : table.parameters)
    weights.push_back({e.name, {.data = parameters.data() + e.offset, .shape = e.shape}});
  for (const ArenaEntry& e : table.states)
    weights.push_back({e.name, {.data = states.data() + e.offset, .shape = e.shape}});
  load_weights(spec, golden::path_of("resnet.safetensors"), weights);

  const golden::Arrays arrays = golden::read("models.bin");
  const golden::Array &x = arrays.at("resnet_saved/x"), &logits = arrays.at("resnet_saved/logits");
  Plan plan(graph, table, kCpu, /*training=*/false);
  plan.bind(parameters.data(), states.data());
  Buffer input(x.f32.size() * sizeof(float)), labels(16), ones(16);
  std::copy(x.f32.begin(), x.f32.end(), reinterpret_cast<float*>(input.data()));
  plan.set_input("x", {.data = input.data(), .shape = x.shape});
  plan.set_input("labels", {.data = labels.data(), .shape = {4}, .dtype = DType::i32});
  plan.set_input("weight", {.data = ones.data(), .shape = {4}});
  Stream stream;
  plan.forward(stream, {}, nullptr);
  const auto* actual = plan.output("logits").as<float>();
  float largest = 0;
  for (std::size_t i = 0; i < logits.f32.size(); ++i) {
    EXPECT_NEAR(actual[i], logits.f32[i], 1e-4) << i;
    largest = std::max(largest, std::abs(logits.f32[i]));
  }
  EXPECT_GT(largest, 2) << "logits this small would show nothing";
}

}  // namespace
}  // namespace peal
