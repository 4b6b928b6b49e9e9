// The safetensors format: u64 header length, JSON header, tensor bytes. Other tools open it.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/state/checkpoint.h"

namespace peal {

// Written atomically; tensors in the given order, the first on an offset that 64 divides. Returns
// xxh64 of the whole file.
std::uint64_t write_safetensors(const std::filesystem::path& path,
                                const std::vector<NamedTensor>& tensors,
                                const std::map<std::string, std::string>& metadata);

// Read-only views into `file`, which must outlive them, in the order of their offsets; the format
// allows tensors that are not aligned to their dtype. Every offset, shape and dtype is checked
// against the file's size; overlaps, gaps and absurd headers are refused with Error(input).
std::vector<NamedTensor> read_safetensors(const MappedFile& file,
                                          const std::filesystem::path& path);

}  // namespace peal
