// A language model that goes on with a text says what the full forward over it says.
#include "launcher/language_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "core/base/random.h"
#include "tests/allocations.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

using testing::HasSubstr;
using Tokens = std::vector<std::int32_t>;

// Of the largest score. A product of up to 128 terms in f32, summed in another order, differs by
// some 1e-7 of what it adds up, and the model has 18 of them in a row, whose norms bring each to
// size 1: 1e-6 (measured: up to 8e-7). A wrong key, value or position differs by 1e-2 and more.
constexpr double kTolerance = 5e-6;

ModelSpec gpt_spec(int context) {
  ModelSpec spec;
  GptSpec& gpt = *spec.mutable_gpt();
  gpt.set_vocabulary(65);
  gpt.set_context(context);
  gpt.set_layers(3);
  gpt.set_heads(4);
  gpt.set_width(32);
  gpt.set_dropout(0.1f);  // identity outside of training
  return spec;
}

ModelSpec rnn_spec(int steps) {
  ModelSpec spec;
  RnnSpec& rnn = *spec.mutable_rnn();
  rnn.set_vocabulary(65);
  rnn.set_steps(steps);
  rnn.set_embedding(16);
  rnn.set_hidden(24);
  rnn.set_layers(2);
  return spec;
}

Tokens text_of(std::int64_t length, std::uint64_t seed = 3) {
  const Random random({.seed = seed});
  Tokens text;
  for (std::int64_t i = 0; i < length; ++i)
    text.push_back(static_cast<std::int32_t>(65 * random.uniform(static_cast<std::uint64_t>(i))));
  return text;
}

// Weights large enough that every part of the model matters, in a checkpoint and in memory.
class Model {
 public:
  explicit Model(const ModelSpec& of) : spec(of) {
    build_model(spec, /*batch=*/1, graph_);
    table_ = make_parameter_table(graph_);
    parameters_ = Buffer(table_.gradient_bytes);
    states_ = Buffer(table_.state_bytes);
    initialize(table_, /*seed=*/2, parameters_.data(), states_.data());
    std::vector<NamedTensor> tensors;
    const Random random({.seed = 7});
    std::uint64_t draw = 0;
    for (const ArenaEntry& e : table_.parameters) {
      auto* x = reinterpret_cast<float*>(parameters_.data() + e.offset);
      for (std::int64_t i = 0; i < e.shape.numel(); ++i)
        x[i] = (e.shape.rank() == 2 ? 10 : 1) * x[i] + 0.2f * (random.uniform(draw++) - 0.5f);
      tensors.push_back({e.name, {.data = x, .shape = e.shape}});
    }
    CheckpointWriter writer({.directory = folder_.path() / "checkpoints"}, tensors, {});
    writer.save({.step = 1});
    writer.wait();
  }

  std::unique_ptr<LanguageModel> open() const {
    return std::make_unique<LanguageModel>(spec, Checkpoint::open(folder_.path()));
  }

  // The scores behind each token of a text that fits the context, by one pass over all of them:
  // (tokens, V).
  std::vector<float> full(std::span<const std::int32_t> tokens) const {
    Graph graph;
    const auto length = static_cast<std::int64_t>(tokens.size());
    build_model(spec, /*batch=*/1, graph, length);
    Plan plan(graph, table_, kCpu, /*training=*/false);
    plan.bind(parameters_.data(), states_.data());
    Buffer x(tokens.size_bytes()), labels(tokens.size_bytes()), weight(sizeof(float));
    std::memcpy(x.data(), tokens.data(), tokens.size_bytes());
    plan.set_input("x", {.data = x.data(), .shape = {1, length}, .dtype = DType::i32});
    plan.set_input("labels", {.data = labels.data(), .shape = {1, length}, .dtype = DType::i32});
    plan.set_input("weight", {.data = weight.data(), .shape = {1}});
    Stream stream;
    plan.forward(stream, {}, nullptr);
    const auto* logits = plan.output("logits").as<float>();
    return {logits, logits + length * 65};
  }

  const ModelSpec spec;

 private:
  TemporaryFolder folder_;
  Graph graph_;
  ParameterTable table_;
  Buffer parameters_, states_;
};

// The same text, and what it says must follow; of more than the context the last tokens count.
void expect_full(const Model& model, std::span<const std::int32_t> text,
                 std::span<const float> scores) {
  const auto context = static_cast<std::size_t>(model_info(model.spec).record_shape[0]);
  if (text.size() > context) text = text.last(context);
  const std::vector<float> all = model.full(text);
  const std::span<const float> expected = std::span(all).last(65);
  double largest = 0, difference = 0;
  ASSERT_EQ(scores.size(), expected.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    ASSERT_TRUE(std::isfinite(scores[i]));
    largest = std::max(largest, std::abs(double{expected[i]}));
    difference = std::max(difference, std::abs(double{scores[i]} - double{expected[i]}));
  }
  ASSERT_GT(largest, 0.5) << "scores this small would show nothing";
  ASSERT_LE(difference, kTolerance * largest) << text.size() << " tokens";
}

// A text from a prompt to well behind the context, token by token.
void expect_full_from(const Model& model, std::int64_t prompt, std::int64_t end) {
  SCOPED_TRACE(cat("prompt of ", prompt));
  const auto said = model.open();
  const Tokens text = text_of(end);
  for (std::int64_t length = prompt; length <= end; ++length) {
    const auto part = std::span(text).first(static_cast<std::size_t>(length));
    expect_full(model, part, said->scores(part));
  }
}

TEST(LanguageModel, SaysWhatTheFullForwardSays) {
  const Model model(gpt_spec(40));
  for (const std::int64_t prompt : {1, 15, 16, 17, 32, 39, 40, 41}) {
    expect_full_from(model, prompt, 46);
    if (HasFatalFailure()) return;
  }
}

// The only context is one position; the first plan is as long as the context.
TEST(LanguageModel, HasContextsOfAnyLength) {
  for (const int context : {1, 2, 9, 16, 17}) {
    SCOPED_TRACE(cat("context ", context));
    expect_full_from(Model(gpt_spec(context)), 1, context + 3);
    if (HasFatalFailure()) return;
  }
}

TEST(LanguageModel, OfRecurrentLayersToo) {
  const Model model(rnn_spec(20));
  for (const std::int64_t prompt : {1, 15, 16, 17, 20, 21}) {
    expect_full_from(model, prompt, 24);
    if (HasFatalFailure()) return;
  }
}

// The cache serves what begins as the text before, whatever was said of that.
TEST(LanguageModel, MayBeAskedOfAnyText) {
  const Model model(gpt_spec(40));
  const auto said = model.open();
  const auto ask = [&](const Tokens& text) { expect_full(model, text, said->scores(text)); };
  Tokens text = text_of(20);
  ask(text);
  ask(text);                               // again
  ask({text.begin(), text.begin() + 10});  // goes back
  ask({text.begin(), text.begin() + 12});  // two more at once
  text[5] = (text[5] + 1) % 65;
  ask(text);  // other tokens before the last
  text.push_back(9);
  ask(text);
  text.back() = 10;
  ask(text);  // another last one
  ask({text[0]});
  ask({text[1]});
  ask(Tokens(45, 7));  // one token all along: what moves on is what stood there
  ask(Tokens(46, 7));
  Tokens wrong = text;
  wrong.push_back(65);
  EXPECT_THROW(said->scores(wrong), Error);
  wrong.back() = 4;
  ask(wrong);
}

TEST(LanguageModel, RepeatsItsBits) {
  const Model model(gpt_spec(40));
  const auto run = [&] {
    const auto said = model.open();
    const Tokens text = text_of(44);
    std::vector<float> all;
    for (std::size_t length = 11; length <= text.size(); ++length) {
      const auto scores = said->scores(std::span(text).first(length));
      all.insert(all.end(), scores.begin(), scores.end());
    }
    return all;
  };
  const std::vector<float> once = run(), twice = run();
  ASSERT_EQ(once.size(), twice.size());
  EXPECT_EQ(std::memcmp(once.data(), twice.data(), once.size() * sizeof(float)), 0);
}

TEST(LanguageModel, AllocatesNothingForOneMoreToken) {
  const Model model(gpt_spec(40));
  const auto said = model.open();
  const Tokens text = text_of(40);
  const auto ask = [&](std::size_t length) { said->scores(std::span(text).first(length)); };
  ask(10);
  ask(11);
  EXPECT_EQ(count_allocations([&] {
              for (std::size_t length = 12; length <= 40; ++length) ask(length);
            }),
            0);
}

TEST(LanguageModel, NamesATokenThatItDoesNotKnow) {
  const Model model(gpt_spec(8));
  const auto said = model.open();
  try {
    said->scores(Tokens{3, 65});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("text: has token 65; the model's vocabulary is 65"));
  }
}

}  // namespace
}  // namespace peal
