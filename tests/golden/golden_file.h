// Reads what tests/golden/golden_file.py wrote.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/device/tensor.h"

namespace peal::golden {

struct Array {
  Shape shape;
  DType dtype = DType::f32;
  std::vector<float> f32;
  std::vector<std::int32_t> i32;
};

using Arrays = std::map<std::string, Array>;

// A file of tests/golden, or of the folder PEAL_TEST_GOLDEN where there is no source tree.
inline std::string path_of(const std::string& name) {
  const char* folder = std::getenv("PEAL_TEST_GOLDEN");
  return (folder != nullptr ? std::string(folder) : PEAL_SOURCE_DIR "/tests/golden") + "/" + name;
}

// Every tensor of a file. Throws when it is missing or cut short.
inline Arrays read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read; see the scripts beside it");
  Arrays arrays;
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string tensor, dtype;
    words >> tensor >> dtype;
    Array array;
    for (std::int64_t dim = 0; words >> dim;) array.shape.push_back(dim);
    const auto count = static_cast<std::size_t>(array.shape.numel());
    char* data = nullptr;
    if (dtype == "i32") {
      array.dtype = DType::i32;
      array.i32.resize(count);
      data = reinterpret_cast<char*>(array.i32.data());
    } else {
      array.f32.resize(count);
      data = reinterpret_cast<char*>(array.f32.data());
    }
    if (!file.read(data, static_cast<std::streamsize>(4 * count)))
      throw std::runtime_error(path + ": ends inside " + tensor);
    arrays[tensor] = std::move(array);
  }
  return arrays;
}

// Of a file of tests/golden.
inline Arrays read(const std::string& name) {
  return read_file(path_of(name));
}

}  // namespace peal::golden
