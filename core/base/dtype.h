// Element types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace peal {

enum class DType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i8, u8, boolean };

std::size_t size_of(DType dtype);
std::string_view name_of(DType dtype);           // "f32"
std::string_view safetensors_name(DType dtype);  // "F32"
// Throws Error(input) that names `where` when no dtype has this safetensors name.
DType dtype_from_safetensors(std::string_view name, std::string_view where);

}  // namespace peal
