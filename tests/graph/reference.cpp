#include "tests/graph/reference.h"

#include <algorithm>
#include <cmath>

#include "core/base/random.h"
#include "tests/recurrent_reference.h"

namespace peal::reference {
namespace {

using Index = std::vector<std::int64_t>;

// Calls f with every index of `shape` in row-major order.
void for_each_index(const Shape& shape, const std::function<void(const Index&)>& f) {
  Index index(static_cast<std::size_t>(shape.rank()));
  for (std::int64_t flat = 0; flat < shape.numel(); ++flat) {
    std::int64_t rest = flat;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      index[static_cast<std::size_t>(axis)] = rest % shape[axis];
      rest /= shape[axis];
    }
    f(index);
  }
}

// Flat position of `index` in `shape`; leading axes that shape lacks are ignored and dimensions of
// 1 are repeated.
std::int64_t flat(const Shape& shape, const Index& index) {
  const auto skip = static_cast<std::int64_t>(index.size()) - shape.rank();
  std::int64_t position = 0;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const std::int64_t i = index[static_cast<std::size_t>(axis + skip)];
    position = position * shape[axis] + (shape[axis] == 1 ? 0 : i);
  }
  return position;
}

std::int64_t window_steps(std::int64_t size, std::int64_t padding, std::int64_t extent,
                          std::int64_t stride) {
  return (size + 2 * padding - extent) / stride + 1;
}

}  // namespace

Function matmul() {
  return [](const Arrays& in) {
    const Array &a = in[0], &b = in[1];
    Shape shape = a.shape;
    shape[-1] = b.shape[-1];
    Array y(shape);
    for_each_index(shape, [&](const Index& index) {
      for (std::int64_t k = 0; k < a.shape[-1]; ++k) {
        Index ia = index, ib = index;
        ia.back() = k;
        ib[ib.size() - 2] = k;
        y[flat(shape, index)] += a[flat(a.shape, ia)] * b[flat(b.shape, ib)];
      }
    });
    return y;
  };
}

Function dense() {
  return [](const Arrays& in) {
    const std::int64_t rows = in[0].shape[0], inputs = in[0].shape[1], outputs = in[1].shape[0];
    Array y({rows, outputs});
    for (std::int64_t b = 0; b < rows; ++b)
      for (std::int64_t o = 0; o < outputs; ++o) {
        double sum = in.size() == 3 ? in[2][o] : 0;
        for (std::int64_t i = 0; i < inputs; ++i)
          sum += in[0][b * inputs + i] * in[1][o * inputs + i];
        y[b * outputs + o] = sum;
      }
    return y;
  };
}

Function affine() {
  return [](const Arrays& in) {
    const std::int64_t inputs = in[1].shape[0], outputs = in[1].shape[1];
    Shape shape = in[0].shape;
    shape[-1] = outputs;
    Array y(shape);
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      const std::int64_t row = i / outputs, o = i % outputs;
      y[i] = in[2][o];
      for (std::int64_t k = 0; k < inputs; ++k)
        y[i] += in[0][row * inputs + k] * in[1][k * outputs + o];
    }
    return y;
  };
}

Function conv2d(const Conv2dOptions& options) {
  return [=](const Arrays& in) {
    const Array &x = in[0], &w = in[1];
    Shape shape = {x.shape[0], w.shape[0]};
    for (int i = 0; i < 2; ++i)
      shape.push_back(window_steps(x.shape[2 + i], options.padding[i],
                                   options.dilation[i] * (w.shape[2 + i] - 1) + 1,
                                   options.stride[i]));
    Array y(shape);
    const std::int64_t filters = w.shape[0] / options.groups;
    for_each_index(shape, [&](const Index& at) {
      const std::int64_t group = at[1] / filters;
      double sum = in.size() == 3 ? in[2][at[1]] : 0;
      for_each_index({w.shape[1], w.shape[2], w.shape[3]}, [&](const Index& tap) {
        const std::int64_t row =
            at[2] * options.stride[0] - options.padding[0] + tap[1] * options.dilation[0];
        const std::int64_t column =
            at[3] * options.stride[1] - options.padding[1] + tap[2] * options.dilation[1];
        if (row < 0 || row >= x.shape[2] || column < 0 || column >= x.shape[3]) return;
        const std::int64_t channel = group * w.shape[1] + tap[0];
        sum += x[flat(x.shape, {at[0], channel, row, column})] *
               w[flat(w.shape, {at[1], tap[0], tap[1], tap[2]})];
      });
      y[flat(shape, at)] = sum;
    });
    return y;
  };
}

Function pool2d(PoolKind kind, const PoolOptions& options) {
  return [=](const Arrays& in) {
    const Array& x = in[0];
    Shape shape = {x.shape[0], x.shape[1]};
    for (int i = 0; i < 2; ++i)
      shape.push_back(
          window_steps(x.shape[2 + i], options.padding[i], options.kernel[i], options.stride[i]));
    Array y(shape);
    for_each_index(shape, [&](const Index& at) {
      double sum = 0, largest = -INFINITY;
      std::int64_t inside = 0;
      for_each_index({options.kernel[0], options.kernel[1]}, [&](const Index& tap) {
        const std::int64_t row = at[2] * options.stride[0] - options.padding[0] + tap[0];
        const std::int64_t column = at[3] * options.stride[1] - options.padding[1] + tap[1];
        if (row < 0 || row >= x.shape[2] || column < 0 || column >= x.shape[3]) return;
        const double value = x[flat(x.shape, {at[0], at[1], row, column})];
        sum += value;
        largest = std::max(largest, value);
        ++inside;
      });
      const std::int64_t count =
          options.include_padding ? options.kernel[0] * options.kernel[1] : inside;
      y[flat(shape, at)] = kind == PoolKind::max ? largest : sum / static_cast<double>(count);
    });
    return y;
  };
}

Function pointwise(std::function<double(double)> f) {
  return [=](const Arrays& in) {
    Array y = in[0];
    std::transform(y.data.begin(), y.data.end(), y.data.begin(), f);
    return y;
  };
}

Function binary(std::function<double(double, double)> f) {
  return [=](const Arrays& in) {
    const Shape &a = in[0].shape, &b = in.back().shape;
    std::vector<std::int64_t> dims(static_cast<std::size_t>(std::max(a.rank(), b.rank())), 1);
    for (const Shape& shape : {a, b})
      for (int i = 1; i <= shape.rank(); ++i) {
        std::int64_t& dim = dims[dims.size() - static_cast<std::size_t>(i)];
        dim = std::max(dim, shape[-i]);
      }
    Array y{Shape(dims)};
    for_each_index(y.shape, [&](const Index& at) {
      y[flat(y.shape, at)] = f(in[0][flat(a, at)], in.back()[flat(b, at)]);
    });
    return y;
  };
}

Function dropout(float p, const RandomKey& key) {
  return [=](const Arrays& in) {
    Array y = in[0];
    const Random random(key);
    for (std::size_t i = 0; i < y.data.size(); ++i) {
      const double draw = (random.words(i / 4)[i % 4] >> 8) * 0x1p-24;
      y.data[i] = draw >= p ? y.data[i] / (1.0 - p) : 0.0;
    }
    return y;
  };
}

Function reshape(const Shape& shape) {
  return [=](const Arrays& in) {
    Array y(shape);
    y.data = in[0].data;
    return y;
  };
}

Function transpose(std::vector<int> permutation) {
  return [=](const Arrays& in) {
    Shape shape;
    for (const int axis : permutation) shape.push_back(in[0].shape[axis]);
    Array y(shape);
    for_each_index(shape, [&](const Index& at) {
      Index from(at.size());
      for (std::size_t i = 0; i < at.size(); ++i)
        from[static_cast<std::size_t>(permutation[i])] = at[i];
      y[flat(shape, at)] = in[0][flat(in[0].shape, from)];
    });
    return y;
  };
}

Function concat(int axis) {
  return [=](const Arrays& in) {
    Shape shape = in[0].shape;
    shape[axis] = 0;
    for (const Array& part : in) shape[axis] += part.shape[axis];
    Array y(shape);
    std::int64_t begin = 0;
    for (const Array& part : in) {
      for_each_index(part.shape, [&](const Index& at) {
        Index to = at;
        to[static_cast<std::size_t>(axis)] += begin;
        y[flat(shape, to)] = part[flat(part.shape, at)];
      });
      begin += part.shape[axis];
    }
    return y;
  };
}

Function slice(int axis, std::int64_t begin, std::int64_t end) {
  return [=](const Arrays& in) {
    Shape shape = in[0].shape;
    shape[axis] = end - begin;
    Array y(shape);
    for_each_index(shape, [&](const Index& at) {
      Index from = at;
      from[static_cast<std::size_t>(axis)] += begin;
      y[flat(shape, at)] = in[0][flat(in[0].shape, from)];
    });
    return y;
  };
}

Function reduce(std::vector<int> axes, const Shape& result, bool mean) {
  return [=](const Arrays& in) {
    Shape kept = in[0].shape;
    for (const int axis : axes) kept[axis] = 1;
    Array y(result);
    for_each_index(in[0].shape,
                   [&](const Index& at) { y[flat(kept, at)] += in[0][flat(in[0].shape, at)]; });
    const double count = static_cast<double>(in[0].shape.numel() / kept.numel());
    for (double& value : y.data) value /= mean ? count : 1;
    return y;
  };
}

Function softmax(bool log) {
  return [=](const Arrays& in) {
    Array y = in[0];
    const std::int64_t columns = y.shape[-1];
    for (std::int64_t row = 0; row < y.shape.numel(); row += columns) {
      double largest = -INFINITY, sum = 0;
      for (std::int64_t i = 0; i < columns; ++i) largest = std::max(largest, y[row + i]);
      for (std::int64_t i = 0; i < columns; ++i) sum += std::exp(y[row + i] - largest);
      for (std::int64_t i = 0; i < columns; ++i) {
        const double value = y[row + i] - largest - std::log(sum);
        y[row + i] = log ? value : std::exp(value);
      }
    }
    return y;
  };
}

Function layer_norm(double epsilon) {
  return [=](const Arrays& in) {
    Array y = in[0];
    const std::int64_t columns = y.shape[-1];
    for (std::int64_t row = 0; row < y.shape.numel(); row += columns) {
      double mean = 0, variance = 0;
      for (std::int64_t i = 0; i < columns; ++i) mean += y[row + i] / static_cast<double>(columns);
      for (std::int64_t i = 0; i < columns; ++i)
        variance += (y[row + i] - mean) * (y[row + i] - mean) / static_cast<double>(columns);
      for (std::int64_t i = 0; i < columns; ++i)
        y[row + i] = (y[row + i] - mean) / std::sqrt(variance + epsilon) * in[1][i] + in[2][i];
    }
    return y;
  };
}

Function attention(std::int64_t heads) {
  return [=](const Arrays& in) {
    const Array& x = in[0];
    const std::int64_t width = x.shape[2] / 3, depth = width / heads;
    Array y({x.shape[0], x.shape[1], width});
    for_each_index({x.shape[0], heads, x.shape[1]}, [&](const Index& at) {
      const std::int64_t b = at[0], t = at[2], column = at[1] * depth;
      std::vector<double> weights;
      double sum = 0;
      for (std::int64_t u = 0; u <= t; ++u) {
        double score = 0;
        for (std::int64_t d = 0; d < depth; ++d)
          score +=
              x[flat(x.shape, {b, t, column + d})] * x[flat(x.shape, {b, u, width + column + d})];
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(depth))));
        sum += weights.back();
      }
      for (std::int64_t d = 0; d < depth; ++d)
        for (std::int64_t u = 0; u <= t; ++u)
          y[flat(y.shape, {b, t, column + d})] += weights[static_cast<std::size_t>(u)] / sum *
                                                  x[flat(x.shape, {b, u, 2 * width + column + d})];
    });
    return y;
  };
}

Function batch_norm(double epsilon) {
  return [=](const Arrays& in) {
    const Array& x = in[0];
    Array y = x;
    const std::int64_t channels = x.shape[1];
    const std::int64_t pixels = x.shape.numel() / (x.shape[0] * channels);
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto each = [&](const std::function<void(std::int64_t b, std::int64_t at)>& f) {
        for (std::int64_t b = 0; b < x.shape[0]; ++b)
          for (std::int64_t i = 0; i < pixels; ++i) f(b, (b * channels + c) * pixels + i);
      };
      double count = 0, mean = 0, variance = 0;
      each([&](std::int64_t b, std::int64_t) { count += in[3][b] > 0; });
      each([&](std::int64_t b, std::int64_t at) { mean += in[3][b] > 0 ? x[at] / count : 0; });
      each([&](std::int64_t b, std::int64_t at) {
        variance += in[3][b] > 0 ? (x[at] - mean) * (x[at] - mean) / count : 0;
      });
      each([&](std::int64_t, std::int64_t at) {
        y[at] = (x[at] - mean) / std::sqrt(variance + epsilon) * in[1][c] + in[2][c];
      });
    }
    return y;
  };
}

Function embedding() {
  return [](const Arrays& in) {
    Shape shape = in[0].shape;
    const std::int64_t columns = in[1].shape[1];
    shape.push_back(columns);
    Array y(shape);
    for (std::int64_t i = 0; i < y.shape.numel(); ++i)
      y[i] = in[1][static_cast<std::int64_t>(in[0][i / columns]) * columns + i % columns];
    return y;
  };
}

Function recurrent(const RecurrentRow& row) {
  return [row](const Arrays& in) {
    RecurrentSpec spec;
    spec.cell = row.options.cell;
    spec.layers = row.options.layers;
    spec.bidirectional = row.options.bidirectional;
    spec.batch_first = row.options.batch_first;
    spec.batch = in[0].shape[spec.batch_first ? 0 : 1];
    spec.steps = in[0].shape[spec.batch_first ? 1 : 0];
    spec.inputs = in[0].shape[2];
    spec.hidden = in[2].shape[1];
    RecurrentInputs given;
    given.x = in[0].data;
    std::size_t next = 1;
    for (std::int64_t i = 0; i < 4 * spec.layers * spec.directions(); ++i)
      given.weights.push_back(in[next++].data);
    if (row.lengths) {
      for (const double length : in[next].data)
        given.lengths.push_back(static_cast<std::int64_t>(length));
      ++next;
    }
    const bool lstm = spec.cell == RecurrentCell::lstm;
    if (row.states) given.h = in[next++].data;
    if (row.states && lstm) given.c = in[next++].data;
    RecurrentOutputs out = run_recurrent(spec, given);
    std::vector<double> all = out.y;
    all.insert(all.end(), out.h.begin(), out.h.end());
    if (lstm) all.insert(all.end(), out.c.begin(), out.c.end());
    Array result({static_cast<std::int64_t>(all.size())});
    result.data = all;
    return result;
  };
}

Function softmax_cross_entropy() {
  return [](const Arrays& in) {
    const Array logs = softmax(/*log=*/true)({in[0]});
    const std::int64_t rows = in[1].shape.numel(), positions = rows / in[2].shape[0];
    Array loss({1});
    for (std::int64_t r = 0; r < rows; ++r)
      loss[0] -= in[2][r / positions] / static_cast<double>(positions) *
                 logs[r * logs.shape[-1] + static_cast<std::int64_t>(in[1][r])];
    return loss;
  };
}

Function binary_cross_entropy() {
  return [](const Arrays& in) {
    Array loss({1});
    for (std::int64_t b = 0; b < in[2].shape[0]; ++b) {
      const double p = 1 / (1 + std::exp(-in[0][b])), t = in[1][b];
      loss[0] -= in[2][b] * (t * std::log(p) + (1 - t) * std::log1p(-p));
    }
    return loss;
  };
}

Function squared_error() {
  return [](const Arrays& in) {
    Array loss({1});
    const std::int64_t features = in[0].shape.numel() / in[0].shape[0];
    for (std::int64_t i = 0; i < in[0].shape.numel(); ++i) {
      const double difference = in[0][i] - in[1][i];
      loss[0] += in[2][i / features] * difference * difference / static_cast<double>(features);
    }
    return loss;
  };
}

}  // namespace peal::reference
