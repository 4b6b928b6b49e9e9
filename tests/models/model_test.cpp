// The models against the same models made of PyTorch's layers, and what every model promises.
#include "models/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "core/base/error.h"
#include "core/graph/plan.h"
#include "core/kernels/kernels.h"
#include "tests/allocations.h"
#include "tests/golden/golden_file.h"
#include "tests/test_device.h"

namespace peal::model_test {
namespace {

using testing::HasSubstr;

const golden::Arrays& goldens() {
  static const golden::Arrays arrays = golden::read("models.bin");
  return arrays;
}

ModelSpec small_cnn(int channels, int side, int filters, int hidden) {
  ModelSpec spec;
  CnnSpec& cnn = *spec.mutable_cnn();
  cnn.set_channels(channels);
  cnn.set_height(side);
  cnn.set_width(side);
  cnn.set_filters(filters);
  cnn.set_hidden(hidden);
  cnn.set_classes(4);
  cnn.set_dropout(0);
  return spec;
}

ModelSpec small_mlp(std::vector<int> hidden, int outputs, MlpSpec::Loss loss,
                    MlpSpec::Activation activation) {
  ModelSpec spec;
  MlpSpec& mlp = *spec.mutable_mlp();
  mlp.set_inputs(6);
  for (const int width : hidden) mlp.add_hidden(width);
  mlp.set_outputs(outputs);
  mlp.set_loss(loss);
  mlp.set_activation(activation);
  return spec;
}

// Both stems and both blocks: the one of basic blocks has CIFAR's stem.
ModelSpec small_resnet(ResNetSpec::Block block, std::vector<int> blocks, int filters, int side) {
  ModelSpec spec;
  ResNetSpec& resnet = *spec.mutable_resnet();
  resnet.set_stem(block == ResNetSpec::BASIC ? ResNetSpec::CIFAR : ResNetSpec::IMAGENET);
  resnet.set_block(block);
  for (const int count : blocks) resnet.add_blocks(count);
  resnet.set_filters(filters);
  resnet.set_height(side);
  resnet.set_width(side);
  resnet.set_classes(4);
  return spec;
}

ModelSpec small_rnn(RnnSpec::Cell cell, int layers, bool bidirectional, int vocabulary) {
  ModelSpec spec;
  RnnSpec& rnn = *spec.mutable_rnn();
  rnn.set_cell(cell);
  rnn.set_steps(5);
  rnn.set_inputs(3);
  rnn.set_hidden(6);
  rnn.set_layers(layers);
  rnn.set_bidirectional(bidirectional);
  rnn.set_classes(4);
  rnn.set_vocabulary(vocabulary);
  rnn.set_embedding(3);
  return spec;
}

ModelSpec golden_spec(const std::string& name) {
  if (name == "cnn_fused") return small_cnn(1, 28, 4, 3);
  if (name == "mlp_binary") return small_mlp({5, 4}, 1, MlpSpec::BINARY, MlpSpec::RELU);
  if (name == "mlp_squared_error") return small_mlp({5}, 1, MlpSpec::SQUARED_ERROR, MlpSpec::GELU);
  if (name == "mlp_softmax") {
    ModelSpec spec = small_mlp({5}, 4, MlpSpec::SOFTMAX, MlpSpec::TANH);
    spec.mutable_mlp()->set_batch_norm(true);
    return spec;
  }
  if (name == "resnet_basic") return small_resnet(ResNetSpec::BASIC, {1, 2}, 16, 8);
  if (name == "resnet_bottleneck") return small_resnet(ResNetSpec::BOTTLENECK, {1, 1}, 4, 32);
  if (name == "rnn_lstm") return small_rnn(RnnSpec::LSTM, 2, true, 0);
  if (name == "rnn_gru") return small_rnn(RnnSpec::GRU, 1, false, 0);
  if (name == "rnn_tokens") return small_rnn(RnnSpec::LSTM, 2, false, 7);
  ModelSpec spec = small_cnn(2, 8, 3, 5);
  spec.mutable_cnn()->set_batch_norm(name == "cnn_batch_norm");
  return spec;
}

// A model with its arenas on the device that tests run on; weights and inputs come from the golden
// file.
struct Trainer {
  Device device;
  ParameterTable table;
  Buffer parameters, gradients, states;
  std::map<std::string, Buffer> inputs;
  std::unique_ptr<Plan> plan;
  Stream stream;

  Trainer(const ModelSpec& spec, std::int64_t batch, bool training = true,
          const PlanOptions& options = {}, const Device& on = test_device().device)
      : device(on), stream(on) {
    Graph graph;
    build_model(spec, batch, graph);
    table = make_parameter_table(graph);
    parameters = Buffer(table.gradient_bytes, device);
    gradients = Buffer(table.gradient_bytes, device);
    states = Buffer(table.state_bytes, device);
    plan = std::make_unique<Plan>(graph, table, device, training, options);
    plan->bind(parameters.data(), states.data());
    std::vector<std::byte> weights(parameters.size()), averages(states.size());
    initialize(table, 1, weights.data(), averages.data());
    to_device(stream, parameters.data(), weights.data(), weights.size());
    to_device(stream, states.data(), averages.data(), averages.size());
  }

  void set_input(const std::string& name, const golden::Array& array) {
    Buffer& buffer = inputs[name] =
        Buffer(static_cast<std::size_t>(array.shape.numel()) * 4, device);
    const void* data = array.dtype == DType::i32 ? static_cast<const void*>(array.i32.data())
                                                 : static_cast<const void*>(array.f32.data());
    to_device(stream, buffer.data(), data, buffer.size());
    plan->set_input(name, {buffer.data(), array.shape, array.dtype, device});
  }

  void load(const std::string& model) {
    for (const char* input : {"x", "labels", "weight"})
      set_input(input, goldens().at(model + "/" + input));
    for (const ArenaEntry& entry : table.parameters) {
      const golden::Array& array = goldens().at(model + "/parameter/" + entry.name);
      ASSERT_EQ(array.shape, entry.shape) << entry.name;
      to_device(stream, parameters.data() + entry.offset, array.f32.data(), array.f32.size() * 4);
    }
  }

  void step(float loss_scale, const Plan::OnGradientReady& ready = {}) {
    plan->forward(stream, {.seed = 1}, gradients.data(), loss_scale);
    plan->backward(stream, gradients.data(), ready);
    plan->apply_slots(stream, gradients.data());
  }

  void expect_close(const void* actual, const golden::Array& expected, const std::string& what);
};

void Trainer::expect_close(const void* actual, const golden::Array& expected,
                           const std::string& what) {
  const auto values = from_device<float>(stream, actual, expected.f32.size());
  double largest = 1e-2;
  for (const float value : expected.f32) largest = std::max(largest, std::abs(double{value}));
  for (std::size_t i = 0; i < expected.f32.size(); ++i)
    ASSERT_NEAR(values[i], expected.f32[i], 1e-5 * largest) << what << " element " << i;
}

class ModelTest : public testing::TestWithParam<const char*> {};

// Every kernel that models are made of is recorded here once; on a GPU as CUDA graphs.
TEST_P(ModelTest, ReplayedStepsHaveTheBitsOfPlainOnes) {
  const std::string model = GetParam();
  Trainer plain(golden_spec(model), 4), recorded(golden_spec(model), 4, true, {.record = true});
  for (Trainer* each : {&plain, &recorded}) each->load(model);
  const std::size_t bytes = plain.table.gradient_bytes;
  for (const float scale : {0.25f, 0.25f, 0.5f}) {
    for (Trainer* each : {&plain, &recorded}) each->step(scale);
    EXPECT_EQ(from_device<std::byte>(recorded.stream, recorded.gradients.data(), bytes),
              from_device<std::byte>(plain.stream, plain.gradients.data(), bytes));
    EXPECT_EQ(from_device<std::byte>(recorded.stream, recorded.states.data(), plain.states.size()),
              from_device<std::byte>(plain.stream, plain.states.data(), plain.states.size()));
  }
  EXPECT_EQ(recorded.plan->recorded_backward(), 1u);
}

TEST_P(ModelTest, FirstStepIsPyTorchs) {
  const std::string model = GetParam();
  for (const bool fuse : {true, false}) {
    Trainer trainer(golden_spec(model), 4, true, {.fuse = fuse});
    trainer.load(model);
    float weight = 0;
    for (const float w : goldens().at(model + "/weight").f32) weight += w;
    trainer.step(1 / weight);
    trainer.expect_close(trainer.gradients.data() + trainer.table.slot("loss").offset,
                         goldens().at(model + "/loss"), "loss");
    trainer.expect_close(trainer.plan->output("logits").data, goldens().at(model + "/logits"),
                         "logits");
    for (const ArenaEntry& entry : trainer.table.parameters)
      trainer.expect_close(trainer.gradients.data() + entry.offset,
                           goldens().at(model + "/gradient/" + entry.name), entry.name);
    for (const ArenaEntry& entry : trainer.table.states)
      trainer.expect_close(trainer.states.data() + entry.offset,
                           goldens().at(model + "/state/" + entry.name), entry.name);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, ModelTest,
                         testing::Values("cnn", "cnn_batch_norm", "cnn_fused", "mlp_binary",
                                         "mlp_softmax", "mlp_squared_error", "resnet_basic",
                                         "resnet_bottleneck", "rnn_lstm", "rnn_gru", "rnn_tokens"),
                         [](const auto& model) { return std::string(model.param); });

TEST(GoldenSteps, OfResNetHavePyTorchsLosses) {
  const std::string model = "resnet_basic";
  Trainer trainer(golden_spec(model), 4);
  trainer.load(model);
  const std::size_t begin = trainer.table.slots_end, bytes = trainer.table.gradient_bytes - begin;
  Buffer velocity(bytes, trainer.device);
  const auto view = [&](std::byte* data) {
    const auto count = static_cast<std::int64_t>(bytes / sizeof(float));
    return Tensor{.data = data, .shape = {count}, .device = trainer.device};
  };
  const std::vector<float>& losses = goldens().at(model + "/losses").f32;
  ASSERT_EQ(losses.size(), 10u);
  EXPECT_LT(losses.back(), losses.front() / 2);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    trainer.step(0.25f);
    const std::byte* loss = trainer.gradients.data() + trainer.table.slot("loss").offset;
    EXPECT_NEAR(from_device<float>(trainer.stream, loss, 1)[0] / 4, losses[i], 1e-4) << i;
    kernels(trainer.device)
        .sgd(trainer.stream,
             {.learning_rate = 0.02,
              .momentum = 0.9,
              .weight_decay = 5e-4,
              .nesterov = true,
              .first = i == 0,
              .gradient_scale = 1},
             view(trainer.gradients.data() + begin), view(velocity.data()),
             view(trainer.parameters.data() + begin));
  }
}

TEST(Cnn, HasTheReferencesShapes) {
  ModelSpec spec;
  spec.mutable_cnn();
  const ModelInfo info = model_info(spec);
  EXPECT_EQ(info.record_shape, Shape({1, 28, 28}));
  EXPECT_EQ(info.classes, 10);
  EXPECT_TRUE(info.has_accuracy);
  const Trainer trainer(spec, 2);
  std::int64_t count = 0;
  for (const ArenaEntry& entry : trainer.table.parameters) count += entry.shape.numel();
  EXPECT_EQ(count, 32 * 9 + 32 + 5408 * 128 + 128 + 128 * 10 + 10);
  EXPECT_EQ(trainer.table.parameters[0].name, "dense2.weight");
  EXPECT_EQ(trainer.table.parameters.back().name, "conv.bias");
}

// torchvision's numbers of parameters.
TEST(ResNet, HasTorchvisionsShapes) {
  const std::pair<int, std::int64_t> sizes[] = {{18, 11689512}, {34, 21797672}, {50, 25557032}};
  for (const auto& [depth, values] : sizes) {
    ModelSpec spec;
    spec.mutable_resnet()->set_depth(depth);
    EXPECT_EQ(model_info(spec).record_shape, Shape({3, 224, 224}));
    EXPECT_EQ(model_info(spec).classes, 1000);
    Graph graph;
    build_model(spec, 1, graph);
    const ParameterTable table = make_parameter_table(graph);
    std::int64_t count = 0;
    for (const ArenaEntry& entry : table.parameters) count += entry.shape.numel();
    EXPECT_EQ(count, values) << depth;
    EXPECT_EQ(table.parameters[0].name, "fc.weight");
    EXPECT_EQ(table.parameters.back().name, "conv1.weight");
  }
}

TEST(ResNet, StartsAsTorchvisionsDoes) {
  ModelSpec spec;
  spec.mutable_resnet()->set_stem(ResNetSpec::CIFAR);
  spec.mutable_resnet()->set_zero_init_residual(true);
  const Trainer trainer(spec, 1, /*training=*/false, {}, kCpu);
  for (const ArenaEntry& entry : trainer.table.parameters) {
    const auto* values = reinterpret_cast<const float*>(trainer.parameters.data() + entry.offset);
    const auto count = static_cast<double>(entry.shape.numel());
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < entry.shape.numel(); ++i) {
      sum += values[i];
      squares += double{values[i]} * values[i];
    }
    if (entry.shape.rank() == 4) {
      const double fan_out = static_cast<double>(entry.shape[0] * entry.shape[2] * entry.shape[3]);
      EXPECT_NEAR(std::sqrt(squares / count) * std::sqrt(fan_out / 2), 1, 4 / std::sqrt(count))
          << entry.name;
    } else if (entry.name.find("bn2.weight") != std::string::npos) {
      EXPECT_EQ(squares, 0) << entry.name;
    } else if (entry.name.find("bn1.weight") != std::string::npos) {
      EXPECT_EQ(sum, count) << entry.name;
    } else if (entry.name.find("bn") != std::string::npos) {
      EXPECT_EQ(squares, 0) << entry.name;
    }
  }
}

void expect_no_allocations(const ModelSpec& spec, const Shape& x, const PlanOptions& options = {}) {
  Trainer trainer(spec, x[0], /*training=*/true, options, kCpu);
  for (const char* input : {"x", "labels", "weight"}) {
    golden::Array array;
    array.shape = std::string(input) == "x" ? x : Shape({x[0]});
    array.dtype = std::string(input) == "labels" ? DType::i32 : DType::f32;
    array.f32.assign(static_cast<std::size_t>(array.shape.numel()), 0.5f);
    array.i32.assign(static_cast<std::size_t>(x[0]), 3);
    trainer.set_input(input, array);
  }
  std::size_t ready = 0;
  const Plan::OnGradientReady on_ready = [&](std::size_t bytes) { ready = bytes; };
  Buffer other(trainer.table.gradient_bytes);
  trainer.step(1, on_ready);
  const std::int64_t made = count_allocations([&] {
    trainer.step(1, on_ready);
    trainer.plan->backward(trainer.stream, other.data(), on_ready);
  });
  EXPECT_EQ(made, 0);
  EXPECT_GT(count_allocations([] { ::operator delete(::operator new(1)); }), 0)
      << "the counter does not count";
  EXPECT_EQ(ready, trainer.table.gradient_bytes);
}

TEST(CpuCnn, StepsWithoutAllocating) {
  ModelSpec spec;
  spec.mutable_cnn();
  expect_no_allocations(spec, {8, 1, 28, 28});
}

TEST(CpuRnn, StepsWithoutAllocating) {
  for (const auto cell : {RnnSpec::LSTM, RnnSpec::GRU, RnnSpec::TANH}) {
    ModelSpec spec;
    spec.mutable_rnn()->set_cell(cell);
    spec.mutable_rnn()->set_bidirectional(true);
    spec.mutable_rnn()->set_dropout(0.25f);
    expect_no_allocations(spec, {8, 28, 28});
  }
}

TEST(CpuResNet, StepsWithoutAllocatingWhereItComputesAgain) {
  const ModelSpec spec = small_resnet(ResNetSpec::BOTTLENECK, {1, 2}, 8, 16);
  expect_no_allocations(spec, {4, 3, 16, 16}, {.recompute = true});
}

// Running averages included, which must move once a step.
TEST(Recompute, OfResNetChangesNoBit) {
  for (const char* name : {"resnet_basic", "resnet_bottleneck"}) {
    for (const bool fuse : {true, false}) {
      Trainer kept(golden_spec(name), 4, true, {.fuse = fuse}),
          again(golden_spec(name), 4, true, {.fuse = fuse, .recompute = true});
      for (Trainer* each : {&kept, &again}) {
        each->load(name);
        each->step(0.25f);
        each->step(0.25f);
      }
      const auto bytes = [](Trainer& t, const Buffer& arena) {
        return from_device<std::byte>(t.stream, arena.data(), arena.size());
      };
      EXPECT_EQ(bytes(again, again.gradients), bytes(kept, kept.gradients)) << name;
      EXPECT_EQ(bytes(again, again.states), bytes(kept, kept.states)) << name;
      EXPECT_LT(again.plan->memory().activations, kept.plan->memory().activations) << name;
    }
  }
}

TEST(Models, MarkTheirBlocks) {
  const auto blocks = [](const ModelSpec& spec) {
    Graph graph;
    build_model(spec, /*batch=*/1, graph);
    return graph.blocks();
  };
  ModelSpec spec;
  spec.mutable_resnet()->set_depth(18);
  EXPECT_EQ(blocks(spec), 2 + 2 + 2 + 2);
  spec.mutable_resnet()->set_depth(50);
  EXPECT_EQ(blocks(spec), 3 + 4 + 6 + 3);
  spec.mutable_gpt()->set_layers(3);
  EXPECT_EQ(blocks(spec), 3);
  spec.mutable_rnn();
  EXPECT_EQ(blocks(spec), 0);
  EXPECT_EQ(blocks(small_cnn(1, 8, 4, 4)), 0);
  EXPECT_EQ(blocks(small_mlp({4}, 1, MlpSpec::BINARY, MlpSpec::RELU)), 0);
}

TEST(Models, HaveOneTableForTrainingAndEvaluation) {
  for (const char* name :
       {"cnn_batch_norm", "mlp_softmax", "resnet_bottleneck", "rnn_lstm", "rnn_tokens"}) {
    const Trainer training(golden_spec(name), 4), evaluation(golden_spec(name), 9, false);
    EXPECT_EQ(training.table.hash(), evaluation.table.hash());
  }
}

std::string message_of(const ModelSpec& spec) {
  try {
    model_info(spec);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Models, RefuseASpecThatCannotBe) {
  EXPECT_THAT(message_of(ModelSpec()), HasSubstr("allowed: cnn, mlp, resnet, gpt, rnn"));
  ModelSpec spec;
  spec.mutable_cnn()->set_kernel(30);
  EXPECT_THAT(message_of(spec), HasSubstr("model.cnn.kernel: 30 does not fit into (28, 28)"));
  spec.mutable_cnn()->set_kernel(3);
  spec.mutable_cnn()->set_pool(27);
  EXPECT_THAT(message_of(spec), HasSubstr("model.cnn.pool: 27 does not fit into (26, 26)"));
  spec.mutable_mlp()->set_outputs(3);
  EXPECT_THAT(message_of(spec), HasSubstr("model.mlp.outputs: 3 outputs; loss BINARY wants 1"));
  spec.mutable_mlp()->set_outputs(1);
  spec.mutable_mlp()->set_loss(MlpSpec::SOFTMAX);
  EXPECT_THAT(message_of(spec), HasSubstr("loss SOFTMAX wants 2 or more"));
  spec.mutable_resnet()->set_depth(19);
  EXPECT_THAT(message_of(spec), HasSubstr("model.resnet.depth: 19; allowed are 18, 34 and 50"));
  spec.mutable_resnet()->set_depth(50);
  spec.mutable_resnet()->set_block(ResNetSpec::BOTTLENECK);
  EXPECT_THAT(message_of(spec), HasSubstr("model.resnet.block: is for model.resnet.blocks only"));
  for (int i = 0; i < 9; ++i) spec.mutable_resnet()->add_blocks(1);
  EXPECT_THAT(message_of(spec), HasSubstr("model.resnet.blocks: 9 stages; allowed are 1 to 8"));
  EXPECT_THAT(message_of(small_rnn(RnnSpec::GRU, 1, true, 7)),
              HasSubstr("model.rnn.bidirectional: a language model"));
}

}  // namespace
}  // namespace peal::model_test
