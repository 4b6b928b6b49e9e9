// Recurrent layers once more: straight loops in double, written from the formulas in kernels.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/kernels/kernels.h"

namespace peal::reference {

struct RecurrentInputs {
  std::vector<double> x, h, c;        // h, c: first states; empty: zeros
  std::vector<std::int64_t> lengths;  // empty: all have every step
  std::vector<std::vector<double>> weights;
};

struct RecurrentOutputs {
  std::vector<double> y, h, c;
};

namespace recurrent_step {

inline double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// One step of one record: h and c become the states after it. w: the four of a direction.
inline void step(RecurrentCell cell, const std::vector<double>* w, const std::vector<double>& x,
                 std::vector<double>& h, std::vector<double>& c) {
  const std::size_t n = h.size(), gates = w[2].size() / n;
  std::vector<double> a(gates * n), u(gates * n);
  for (std::size_t k = 0; k < gates * n; ++k) {
    a[k] = w[2][k];
    for (std::size_t j = 0; j < x.size(); ++j) a[k] += w[0][k * x.size() + j] * x[j];
    u[k] = w[3][k];
    for (std::size_t j = 0; j < n; ++j) u[k] += w[1][k * n + j] * h[j];
  }
  for (std::size_t j = 0; j < n; ++j) {
    const auto sum = [&](std::size_t gate) { return a[gate * n + j] + u[gate * n + j]; };
    if (cell == RecurrentCell::rnn_tanh) h[j] = std::tanh(sum(0));
    if (cell == RecurrentCell::rnn_relu) h[j] = std::max(sum(0), 0.0);
    if (cell == RecurrentCell::lstm) {
      c[j] = sigmoid(sum(1)) * c[j] + sigmoid(sum(0)) * std::tanh(sum(2));
      h[j] = sigmoid(sum(3)) * std::tanh(c[j]);
    }
    if (cell == RecurrentCell::gru) {
      const double r = sigmoid(sum(0)), z = sigmoid(sum(1));
      const double candidate = std::tanh(a[2 * n + j] + r * u[2 * n + j]);
      h[j] = (1 - z) * candidate + z * h[j];
    }
  }
}

}  // namespace recurrent_step

inline RecurrentOutputs run_recurrent(const RecurrentSpec& spec, const RecurrentInputs& in) {
  using Row = std::vector<double>;
  const auto n = static_cast<std::size_t>(spec.hidden),
             batch = static_cast<std::size_t>(spec.batch);
  const auto steps = static_cast<std::size_t>(spec.steps);
  const auto directions = static_cast<std::size_t>(spec.directions());
  const auto layers = static_cast<std::size_t>(spec.layers);
  const auto row = [&](std::size_t t, std::size_t b) {
    return spec.batch_first ? b * steps + t : t * batch + b;
  };
  RecurrentOutputs out;
  out.h.resize(layers * directions * batch * n);
  out.c.resize(out.h.size());
  std::vector<Row> below(steps * batch), here;
  const auto inputs = static_cast<std::size_t>(spec.inputs);
  for (std::size_t i = 0; i < below.size(); ++i) {
    const auto first = in.x.begin() + static_cast<std::ptrdiff_t>(i * inputs);
    below[i].assign(first, first + static_cast<std::ptrdiff_t>(inputs));
  }
  for (std::size_t layer = 0; layer < layers; ++layer) {
    here.assign(steps * batch, Row(directions * n, 0));
    for (std::size_t d = 0; d < directions; ++d) {
      const std::size_t chain = layer * directions + d;
      for (std::size_t b = 0; b < batch; ++b) {
        const std::int64_t given = in.lengths.empty() ? spec.steps : in.lengths[b];
        const auto length =
            static_cast<std::size_t>(std::clamp<std::int64_t>(given, 0, spec.steps));
        const std::size_t at = (chain * batch + b) * n;
        Row h(n), c(n);
        for (std::size_t j = 0; j < n; ++j) {
          if (!in.h.empty()) h[j] = in.h[at + j];
          if (!in.c.empty()) c[j] = in.c[at + j];
        }
        for (std::size_t k = 0; k < length; ++k) {
          const std::size_t t = d == 0 ? k : length - 1 - k;
          recurrent_step::step(spec.cell, &in.weights[4 * chain], below[row(t, b)], h, c);
          std::copy(h.begin(), h.end(),
                    here[row(t, b)].begin() + static_cast<std::ptrdiff_t>(d * n));
        }
        std::copy(h.begin(), h.end(), out.h.begin() + static_cast<std::ptrdiff_t>(at));
        std::copy(c.begin(), c.end(), out.c.begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
    below = here;
  }
  for (const Row& r : below) out.y.insert(out.y.end(), r.begin(), r.end());
  return out;
}

}  // namespace peal::reference
