// Every op once more: straight loops in float64, written from the formulas and sharing no code with
// the kernels. Finite differences of these are the gradients that plans are checked against.
#pragma once

#include <functional>
#include <vector>

#include "core/device/tensor.h"
#include "core/graph/ops.h"

namespace peal::reference {

struct Array {
  Shape shape;
  std::vector<double> data;

  explicit Array(const Shape& s) : shape(s), data(static_cast<std::size_t>(s.numel())) {}
  double& operator[](std::int64_t i) { return data[static_cast<std::size_t>(i)]; }
  double operator[](std::int64_t i) const { return data[static_cast<std::size_t>(i)]; }
};

using Arrays = std::vector<Array>;
// Makes an op's reference: inputs -> output.
using Function = std::function<Array(const Arrays&)>;

Function matmul();
Function dense();                               // 2 or 3 inputs
Function affine();                              // weight (I, O)
Function conv2d(const Conv2dOptions& options);  // 2 or 3 inputs
Function pool2d(PoolKind kind, const PoolOptions& options);
Function pointwise(std::function<double(double)> f);
Function binary(std::function<double(double, double)> f);  // broadcasts
Function dropout(float p, const RandomKey& key);
Function reshape(const Shape& shape);
Function transpose(std::vector<int> permutation);
Function concat(int axis);
Function slice(int axis, std::int64_t begin, std::int64_t end);
Function reduce(std::vector<int> axes, const Shape& result, bool mean);
Function softmax(bool log);
Function layer_norm(double epsilon);
Function batch_norm(double epsilon);  // x, gamma, beta, record weight
Function attention(std::int64_t heads);
Function embedding();
// x, weights, then lengths and first states where `options` says so: see recurrent_row.
struct RecurrentRow {
  RecurrentOptions options;
  bool lengths = false, states = false;
};
Function recurrent(const RecurrentRow& row);  // y, h and c, flat, one behind the other
Function softmax_cross_entropy();
Function binary_cross_entropy();
Function squared_error();

}  // namespace peal::reference
