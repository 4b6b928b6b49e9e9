// A main for a fuzz target in the ordinary suite: every file of a folder, and the same mutations
// of each on every run.
//   idx_corpus FOLDER MUTATIONS_PER_FILE
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "core/base/file.h"
#include "core/base/random.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

// A copy of its own size, so that an address sanitizer sees any byte read behind the end.
void feed(const Bytes& bytes) {
  const Bytes exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

// One to four small changes: a bit, a byte, a cut, a repeated piece, a run of 0 or 255.
Bytes mutate(Bytes bytes, const peal::Random& random, std::uint64_t index) {
  std::uint64_t draws = index * 64;
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : random.u64(draws++) % n; };
  const std::size_t changes = 1 + below(4);
  for (std::size_t i = 0; i < changes && !bytes.empty(); ++i) {
    const std::size_t at = below(bytes.size());
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const std::size_t length = std::min<std::size_t>(1 + below(8), bytes.size() - at);
    const auto piece_end = place + static_cast<std::ptrdiff_t>(length);
    switch (below(6)) {
      case 0:
        *place = static_cast<std::uint8_t>(*place ^ (1u << below(8)));
        break;
      case 1:
        *place = static_cast<std::uint8_t>(below(256));
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3: {
        const Bytes piece(place, piece_end);
        bytes.insert(place, piece.begin(), piece.end());
        break;
      }
      case 4:
        bytes.erase(place, piece_end);
        break;
      case 5:
        std::fill(place, piece_end, below(2) == 0 ? 0 : 255);
        break;
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FOLDER MUTATIONS_PER_FILE\n", argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "%s: holds no files\n", argv[1]);
    return 2;
  }
  const std::uint64_t mutations = std::strtoull(argv[2], nullptr, 10);
  for (std::size_t f = 0; f < files.size(); ++f) {
    const std::string text = peal::read_file(files[f]);
    const Bytes bytes(text.begin(), text.end());
    feed(bytes);
    const peal::Random random({.seed = 1, .stream = f});
    for (std::uint64_t i = 0; i < mutations; ++i) feed(mutate(bytes, random, i));
  }
  std::printf("%zu files, %llu mutations of each\n", files.size(),
              static_cast<unsigned long long>(mutations));
  return 0;
}
