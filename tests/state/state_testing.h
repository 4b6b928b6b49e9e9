// What the tests of core/state share: a folder of their own and a small model.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/device/buffer.h"
#include "core/state/checkpoint.h"
#include "tests/temporary_folder.h"

namespace peal {

// Two weights and one optimizer state, all a function of a step.
struct SmallModel {
  explicit SmallModel(std::int64_t scale = 1)
      : memory(static_cast<std::size_t>(scale) * 64 * 3 * sizeof(float)) {
    auto* data = reinterpret_cast<float*>(memory.data());
    weights = {{"dense.weight", {data, {scale * 8, 8}, DType::f32}},
               {"dense.bias", {data + scale * 64, {scale * 64}, DType::f32}}};
    optimizer = {{"adam.m", {data + scale * 128, {scale * 64}, DType::f32}}};
  }
  void fill(std::int64_t step) {
    auto* data = reinterpret_cast<float*>(memory.data());
    const std::size_t n = memory.size() / sizeof(float);
    for (std::size_t i = 0; i < n; ++i) {
      data[i] = static_cast<float>(step) * 0.5f + static_cast<float>(i);
    }
  }
  bool holds(std::int64_t step) const {
    const auto* data = reinterpret_cast<const float*>(memory.data());
    const std::size_t n = memory.size() / sizeof(float);
    for (std::size_t i = 0; i < n; ++i) {
      if (data[i] != static_cast<float>(step) * 0.5f + static_cast<float>(i)) return false;
    }
    return true;
  }
  Buffer memory;
  std::vector<NamedTensor> weights, optimizer;
};

inline CheckpointInfo info_at(std::int64_t step) {
  return {step, step / 10, "name: \"test\"\n", 42, {{"test_loss", 1.0 / double(step + 1)}}};
}

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void spit(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// The text of the Error(input) that `action` must throw.
template <typename Action>
std::string input_error(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input) << error.what();
    return error.what();
  }
  return "no error";
}

inline std::vector<std::string> entries(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace peal
