// Shape checks of the op catalogue; every message begins with the op's name.
#pragma once

#include <string>

#include "core/base/error.h"
#include "core/graph/graph.h"

namespace peal {

template <typename... Parts>
void check(bool holds, const char* op, const Parts&... parts) {
  if (!holds) fail_input(op, parts...);
}

inline void check_dtype(const char* op, const char* name, Value value, DType dtype) {
  check(value.valid(), op, name, " was never assigned");
  check(value.dtype() == dtype, op, name, " wants ", name_of(dtype), ", got ",
        name_of(value.dtype()));
}

inline void check_f32(const char* op, const char* name, Value value) {
  check_dtype(op, name, value, DType::f32);
}

inline void check_rank(const char* op, const char* name, Value value, int rank) {
  check_f32(op, name, value);
  check(value.shape().rank() == rank, op, name, " wants ", rank, " dimensions, got shape ",
        value.shape());
}

inline void check_shape(const char* op, const char* name, Value value, const Shape& shape) {
  check_f32(op, name, value);
  check(value.shape() == shape, op, name, " wants shape ", shape, ", got ", value.shape());
}

// -1 -> rank - 1, and so on.
inline int check_axis(const char* op, Value x, int axis) {
  const int rank = x.shape().rank();
  check(axis >= -rank && axis < rank, op, "axis ", axis, " of shape ", x.shape(),
        "; allowed: ", -rank, " to ", rank - 1);
  return axis < 0 ? axis + rank : axis;
}

// Records an op with one f32 output.
inline Value record(const char* op, std::vector<Value> inputs, const Shape& shape,
                    CompileOp compile, OpTraits traits = {}) {
  Graph& graph = inputs[0].graph();
  return graph.add_op(op, std::move(inputs), {{shape, DType::f32}}, std::move(compile),
                      std::move(traits))[0];
}

}  // namespace peal
