// Recurrent layers against plain loops in double, and their gradients against finite differences of
// those loops.
#include <gtest/gtest.h>

#include <limits>

#include "tests/kernels/prepared_reference.h"
#include "tests/recurrent_reference.h"

namespace peal {
namespace {

using reference::expect_close;
using reference::gradient;
using reference::Owned;
using reference::random_values;
using reference::RecurrentInputs;
using reference::RecurrentOutputs;
using reference::Vector;

using Lengths = std::vector<std::int32_t>;

struct RecurrentCase {
  const char* name;
  RecurrentSpec spec;
  Lengths lengths;
};

std::ostream& operator<<(std::ostream& out, const RecurrentCase& c) {
  return out << c.name;
}

void append(Vector& all, const Vector& more) {
  all.insert(all.end(), more.begin(), more.end());
}

std::vector<Tensor> tensors(const std::vector<Owned>& owned) {
  return {owned.begin(), owned.end()};
}

// A recurrent layer with everything that it takes to run it. All that has a gradient stands in
// `values`, in the order x, weights, first h, first c; all that is put out in the order y, h, c.
class Layers {
 public:
  Layers(RecurrentSpec spec, const Lengths& lengths, Kernels& kernels = kernels_under_test())
      : spec_(spec), lengths_(lengths), lengths_in_({spec.batch}) {
    kernel_ = kernels.make_recurrent(spec);
    lengths_in_tensor_ = lengths_in_;
    lengths_in_tensor_.dtype = DType::i32;
    std::copy(lengths.begin(), lengths.end(), lengths_in_tensor_.as<std::int32_t>());
    shapes_ = {spec.x()};
    for (const Shape& shape : spec.weights()) shapes_.push_back(shape);
    weights_ = shapes_.size() - 1;
    if (spec.initial) shapes_.push_back(spec.state());
    if (spec.initial && lstm()) shapes_.push_back(spec.state());
    for (const Shape& shape : shapes_) values.push_back(random_values(shape, values.size() + 1));
    out_shapes_ = {spec.y(), spec.state()};
    if (lstm()) out_shapes_.push_back(spec.state());
    for (const Shape& shape : out_shapes_)
      projections.push_back(random_values(shape, 100 + projections.size()));
  }

  std::vector<Vector> values, projections;
  std::vector<Owned> outputs, gradients;

  bool lstm() const { return spec_.cell == RecurrentCell::lstm; }
  std::size_t inputs() const { return shapes_.size(); }
  std::size_t weights() const { return weights_; }

  // What is not wanted is left out: dx where the spec does not need it.
  void run() {
    std::vector<Owned> in, gradient_of_out;
    outputs.clear();
    gradients.clear();
    for (std::size_t i = 0; i < shapes_.size(); ++i) {
      in.push_back(Owned::of(shapes_[i], values[i]));
      gradients.emplace_back(shapes_[i]);
    }
    for (std::size_t i = 0; i < out_shapes_.size(); ++i) {
      outputs.emplace_back(out_shapes_[i]);
      gradient_of_out.push_back(Owned::of(out_shapes_[i], projections[i]));
    }
    const Owned saved = Owned::bytes(kernel_->saved_bytes()),
                pad = Owned::bytes(kernel_->scratch_bytes());
    const std::vector<Tensor> all = tensors(in), to = tensors(outputs), dall = tensors(gradients),
                              dto = tensors(gradient_of_out);
    const std::span<const Tensor> w(all.data() + 1, weights_), dw(dall.data() + 1, weights_);
    const Tensor lengths = spec_.lengths ? lengths_in_tensor_ : Tensor{};
    kernel_->forward(s_, all[0], lengths, first(all), w, to[0], last(to), saved, pad);
    if (spec_.training)
      kernel_->backward(s_, all[0], lengths, first(all), w, to[0], dto[0], last(dto), saved,
                        spec_.needs_dx ? dall[0] : Tensor{}, first(dall), dw, pad);
    EXPECT_TRUE(saved.guard_intact() && pad.guard_intact());
    for (const auto* owned : {&outputs, &gradients})
      for (const Owned& x : *owned) EXPECT_TRUE(x.guard_intact());
  }

  // The outputs one behind the other, by the loops in double.
  Vector expected(const std::vector<Vector>& of) const {
    RecurrentInputs in;
    in.x = of[0];
    in.weights.assign(of.begin() + 1, of.begin() + 1 + static_cast<std::ptrdiff_t>(weights_));
    if (spec_.initial) in.h = of[1 + weights_];
    if (spec_.initial && lstm()) in.c = of[2 + weights_];
    if (spec_.lengths) in.lengths.assign(lengths_.begin(), lengths_.end());
    const RecurrentOutputs out = run_recurrent(spec_, in);
    Vector all = out.y;
    append(all, out.h);
    if (lstm()) append(all, out.c);
    return all;
  }
  Vector computed() const {
    Vector all;
    for (const Owned& x : outputs) append(all, x.values());
    return all;
  }
  Vector expected_gradient(std::size_t i) const {
    Vector projection;
    for (const Vector& p : projections) append(projection, p);
    const auto of_input = [&](const Vector& v) {
      std::vector<Vector> changed = values;
      changed[i] = v;
      return expected(changed);
    };
    return gradient(of_input, values[i], projection);
  }

 private:
  Recurrent::State first(const std::vector<Tensor>& all) const {
    if (!spec_.initial) return {};
    return {all[1 + weights_], lstm() ? all[2 + weights_] : Tensor{}};
  }
  Recurrent::State last(const std::vector<Tensor>& to) const {
    return {to[1], lstm() ? to[2] : Tensor{}};
  }

  RecurrentSpec spec_;
  Lengths lengths_;
  Owned lengths_in_;
  Tensor lengths_in_tensor_;
  std::unique_ptr<Recurrent> kernel_;
  std::vector<Shape> shapes_, out_shapes_;
  std::size_t weights_ = 0;
  Stream s_;
};

class RecurrentLayers : public testing::TestWithParam<std::tuple<RecurrentCell, RecurrentCase>> {
 protected:
  static RecurrentSpec spec() {
    RecurrentSpec spec = std::get<1>(GetParam()).spec;
    spec.cell = std::get<0>(GetParam());
    return spec;
  }
  static const Lengths& lengths() { return std::get<1>(GetParam()).lengths; }
};

TEST_P(RecurrentLayers, ForwardAndBackward) {
  Layers layers(spec(), lengths());
  layers.run();
  expect_close(layers.computed(), layers.expected(layers.values), 3e-6, "outputs");
  for (std::size_t i = spec().needs_dx ? 0 : 1; i < layers.inputs(); ++i) {
    SCOPED_TRACE(testing::Message() << "input " << i);
    expect_close(layers.gradients[i].values(), layers.expected_gradient(i), 1e-5, "gradient");
  }
}

// In evaluation nothing is saved and the bits are those of training.
TEST_P(RecurrentLayers, EvaluationHasTheBitsOfTraining) {
  Layers training(spec(), lengths());
  training.run();
  RecurrentSpec without = spec();
  without.training = false;
  Layers evaluation(without, lengths());
  evaluation.run();
  for (std::size_t i = 0; i < training.outputs.size(); ++i)
    EXPECT_EQ(evaluation.outputs[i].bits(), training.outputs[i].bits()) << i;
}

RecurrentSpec of(std::int64_t steps, std::int64_t batch, std::int64_t inputs, std::int64_t hidden,
                 std::int64_t layers = 1) {
  RecurrentSpec spec;
  spec.steps = steps;
  spec.batch = batch;
  spec.inputs = inputs;
  spec.hidden = hidden;
  spec.layers = layers;
  return spec;
}

RecurrentSpec with(RecurrentSpec spec, bool bidirectional, bool batch_first, bool initial,
                   bool lengths) {
  spec.bidirectional = bidirectional;
  spec.batch_first = batch_first;
  spec.initial = initial;
  spec.lengths = lengths;
  return spec;
}

RecurrentSpec without_dx(RecurrentSpec spec) {
  spec.needs_dx = false;
  return spec;
}

const RecurrentCase kCases[] = {
    {"plain", of(5, 3, 4, 6), {}},
    {"one_step", with(of(1, 2, 3, 4), true, false, true, false), {}},
    {"one_record", with(of(4, 1, 3, 5, 2), false, true, false, false), {}},
    {"wide", without_dx(of(3, 2, 5, 33)), {}},
    {"batch_first", with(of(4, 3, 2, 4, 2), false, true, true, false), {}},
    {"bidirectional", with(of(4, 3, 3, 5, 2), true, false, true, false), {}},
    {"lengths", with(of(5, 4, 3, 4), false, false, false, true), {5, 1, 3, 0}},
    {"everything", with(of(4, 5, 3, 3, 3), true, true, true, true), {2, 4, 0, 1, 9}},
};

constexpr RecurrentCell kCells[] = {RecurrentCell::rnn_tanh, RecurrentCell::rnn_relu,
                                    RecurrentCell::lstm, RecurrentCell::gru};
constexpr const char* kCellNames[] = {"rnn_tanh", "rnn_relu", "lstm", "gru"};

INSTANTIATE_TEST_SUITE_P(Cells, RecurrentLayers,
                         testing::Combine(testing::ValuesIn(kCells), testing::ValuesIn(kCases)),
                         [](const auto& test) {
                           return std::string(
                                      kCellNames[static_cast<int>(std::get<0>(test.param))]) +
                                  "_" + std::get<1>(test.param).name;
                         });

// Beyond a record's end y is 0 to the bit, and neither x nor dy is looked at: NaNs there change
// nothing.
TEST(RecurrentLengths, PaddingFlowsNowhere) {
  const Lengths lengths = {2, 4, 0};
  for (const RecurrentCell cell : kCells) {
    RecurrentSpec spec = with(of(4, 3, 3, 5, 2), true, true, false, true);
    spec.cell = cell;
    Layers clean(spec, lengths), dirty(spec, lengths);
    const auto spoil = [&](Vector& rows, std::int64_t columns, double value) {
      for (std::int64_t b = 0; b < spec.batch; ++b)
        for (std::int64_t t = lengths[static_cast<std::size_t>(b)]; t < spec.steps; ++t)
          std::fill_n(rows.begin() + (b * spec.steps + t) * columns, columns, value);
    };
    spoil(clean.values[0], spec.inputs, 0);
    spoil(dirty.values[0], spec.inputs, 1e3);
    spoil(dirty.projections[0], 2 * spec.hidden, std::numeric_limits<double>::quiet_NaN());
    clean.run();
    dirty.run();
    const Vector y = dirty.outputs[0].values();
    Vector zeroed = y;
    spoil(zeroed, 2 * spec.hidden, 0);
    EXPECT_EQ(y, zeroed);
    EXPECT_EQ(dirty.computed(), clean.computed());
    for (std::size_t i = 0; i < dirty.inputs(); ++i)
      EXPECT_EQ(dirty.gradients[i].values(), clean.gradients[i].values()) << i;
  }
}

// Far from 0 the gates are 0 or 1, and never NaN.
TEST(RecurrentLayers, LargeInputsStayFinite) {
  for (const RecurrentCell cell : {RecurrentCell::lstm, RecurrentCell::gru}) {
    RecurrentSpec spec = of(3, 2, 3, 4);
    spec.cell = cell;
    Layers layers(spec, {});
    for (double& x : layers.values[0]) x *= 1e4;
    layers.run();
    expect_close(layers.computed(), layers.expected(layers.values), 3e-6, "outputs");
    for (const Owned& gradient : layers.gradients)
      for (const double x : gradient.values()) EXPECT_TRUE(std::isfinite(x));
  }
}

}  // namespace
}  // namespace peal
