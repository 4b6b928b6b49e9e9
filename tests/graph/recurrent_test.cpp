// What the op of recurrent layers adds to its kernel: what it refuses, and dropout between layers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/graph/plan_helpers.h"

namespace peal {
namespace {

using testing::HasSubstr;

TEST(Recurrent, RefusesByName) {
  Graph graph;
  const Value x = graph.input("x", {5, 2, 3});  // (T, B, I)
  const auto weight = [&](const std::string& name, const Shape& shape) {
    return graph.parameter(name, shape, Initializer::constant(0));
  };
  std::vector<Value> w = {weight("ih", {16, 3}), weight("hh", {16, 4}), weight("b", {16}),
                          weight("c", {16})};
  const Value states = graph.input("states", {1, 2, 4});
  EXPECT_EQ(message_of([&] { recurrent(x, w, {.layers = 2}); }),
            "recurrent: wants 8 weights, 4 for each layer and direction, got 4");
  EXPECT_EQ(message_of([&] { recurrent(x, w, {.cell = RecurrentCell::gru}); }),
            "recurrent: weight_ih wants shape (12, 3), got (16, 3)");
  EXPECT_EQ(message_of([&] { recurrent(x, w, {}, graph.input("l", {5}, DType::i32)); }),
            "recurrent: lengths wants shape (2), got (5)");
  EXPECT_THAT(message_of([&] { recurrent(x, w, {}, {}, {.h = states}); }),
              HasSubstr("c is given if and only if the cell is LSTM and h is given"));
  EXPECT_THAT(message_of([&] { recurrent(x, w, {.dropout = 1}); }),
              HasSubstr("dropout 1; allowed: [0, 1)"));
  EXPECT_EQ(message_of([&] { recurrent(x, w, {}, {}, {.h = states, .c = states}); }),
            "nothing was thrown");
}

// Dropout between layers makes an op of each; with a p so small that nothing is dropped they have
// the bits of the one op of all layers.
TEST(Recurrent, LayersOneByOneAreAllLayersAtOnce) {
  const auto run = [](float dropout, bool training) {
    Graph graph;
    RecurrentSpec spec;
    spec.cell = RecurrentCell::lstm;
    spec.inputs = 3;
    spec.hidden = 4;
    spec.layers = 2;
    spec.bidirectional = true;
    std::vector<Value> w;
    for (const Shape& shape : spec.weights())
      w.push_back(graph.parameter("w" + std::to_string(w.size()), shape, Initializer::uniform(1)));
    const Value h = graph.input("h", {4, 2, 4}), c = graph.input("c", {4, 2, 4});
    const Recurrence made =
        recurrent(graph.input("x", {5, 2, 3}), w,
                  {.layers = 2, .bidirectional = true, .dropout = dropout}, {}, {{}, h, c});
    graph.set_output("y", made.y);
    graph.set_output("h", made.h);
    graph.set_output("c", made.c);
    graph.set_loss(add(total(made.y), total(made.h)));
    auto session = std::make_unique<Session>(graph, training);
    set_noise(*session, "x", {5, 2, 3});
    set_noise(*session, "h", {4, 2, 4});
    set_noise(*session, "c", {4, 2, 4});
    session->forward(kPass);
    if (training) session->backward();
    std::vector<std::vector<float>> all = {session->output("y"), session->output("h"),
                                           session->output("c")};
    for (std::size_t i = 0; training && i < w.size(); ++i)
      all.push_back(session->gradient("w" + std::to_string(i)));
    return all;
  };
  EXPECT_EQ(run(1e-30f, true), run(0, true));
  EXPECT_EQ(run(0.5f, false), run(0, false));
  EXPECT_NE(run(0.5f, true), run(0, true));
}

}  // namespace
}  // namespace peal
