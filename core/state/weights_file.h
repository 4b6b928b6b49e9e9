// Weights that any program saved as safetensors, such as PyTorch or Hugging Face's libraries: in
// one file, or in several beside a model.safetensors.index.json that says which tensor lies where.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/state/checkpoint.h"

namespace peal {

// Copies the tensors at `path` into `into` (f32, row-major) by name; f16, bf16 and f64 become f32.
// `path`: a safetensors file, an index (*.json), or a folder with model.safetensors.index.json,
// model.safetensors or, as a checkpoint has it, weights.safetensors. Tensors for which `ignored`
// says so may be there and count for nothing. Everything is compared before anything is copied:
// names that are missing or left over, other shapes and other dtypes throw Error(input), which
// lists the first few and what is allowed. Cost: one pass over the bytes of the file.
void load_weights_file(const std::filesystem::path& path, const std::vector<NamedTensor>& into,
                       const std::function<bool(const std::string& name)>& ignored);

// The index of weights in several files: the file, which lies beside the index, of each tensor.
// Throws Error(input) that begins with `where`.
std::map<std::string, std::string> parse_weights_index(std::string_view text,
                                                       const std::string& where);

}  // namespace peal
