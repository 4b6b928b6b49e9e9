// The manifest of a checkpoint as bytes. Not for use outside of this folder and its tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/state/checkpoint.h"

namespace peal::state {

inline constexpr const char* kManifestFile = "manifest.pb";
inline constexpr const char* kWeightsFile = "weights.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kCompressionFile = "compression.safetensors";  // where there is state

struct FileEntry {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t xxh64 = 0;
};

struct Manifest {
  CheckpointInfo info;
  std::uint64_t weights_hash = 0;
  std::vector<FileEntry> files;  // weights, optimizer, compression if there is any
};

// The message, then xxh64 of its bytes (8 bytes, little endian). Equal manifests give equal bytes.
std::string encode_manifest(const Manifest& manifest);

// Throws Error(input) at `where` when a byte is wrong, missing or left over, or when it is not
// the manifest of a weights and an optimizer file.
Manifest decode_manifest(std::string_view bytes, const std::string& where);

Manifest read_manifest(const std::filesystem::path& checkpoint);

// "step-000001200"
std::string folder_name(std::int64_t step);

// Steps of the folders in `directory` that have such a name, ascending; none when `directory` is
// not there.
std::vector<std::int64_t> list_steps(const std::filesystem::path& directory);

}  // namespace peal::state
