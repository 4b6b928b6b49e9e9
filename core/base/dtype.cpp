#include "core/base/dtype.h"

#include <array>
#include <string>

#include "core/base/error.h"

namespace peal {
namespace {

struct Row {
  DType dtype;
  std::size_t size;
  std::string_view name;
  std::string_view safetensors;
};

constexpr std::array<Row, 9> kRows = {{{DType::f64, 8, "f64", "F64"},
                                       {DType::f32, 4, "f32", "F32"},
                                       {DType::f16, 2, "f16", "F16"},
                                       {DType::bf16, 2, "bf16", "BF16"},
                                       {DType::i64, 8, "i64", "I64"},
                                       {DType::i32, 4, "i32", "I32"},
                                       {DType::i8, 1, "i8", "I8"},
                                       {DType::u8, 1, "u8", "U8"},
                                       {DType::boolean, 1, "bool", "BOOL"}}};

const Row& row(DType dtype) {
  return kRows.at(static_cast<std::size_t>(dtype));
}

}  // namespace

std::size_t size_of(DType dtype) {
  return row(dtype).size;
}
std::string_view name_of(DType dtype) {
  return row(dtype).name;
}
std::string_view safetensors_name(DType dtype) {
  return row(dtype).safetensors;
}

DType dtype_from_safetensors(std::string_view name, std::string_view where) {
  for (const Row& r : kRows) {
    if (r.safetensors == name) return r.dtype;
  }
  fail_input(std::string(where), "unknown dtype \"", name,
             "\"; allowed are F64 F32 F16 BF16 I64 I32 I8 U8 BOOL");
}

}  // namespace peal
