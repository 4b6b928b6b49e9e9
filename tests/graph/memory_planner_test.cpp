#include "core/graph/memory_planner.h"

#include <gtest/gtest.h>

#include "core/base/random.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

TEST(MemoryPlanner, NeverPutsTwoLivingPiecesOnTopOfEachOther) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Random random({.seed = seed});
    std::vector<MemoryPiece> pieces;
    for (std::uint64_t i = 0; i < 60; ++i) {
      const auto words = random.words(i);
      const int first = static_cast<int>(words[0] % 40);
      pieces.push_back({words[1] % 5000, first, first + static_cast<int>(words[2] % 10)});
    }
    const std::size_t total = place(pieces);
    std::size_t sum = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const MemoryPiece& a = pieces[i];
      sum += align_up(a.bytes);
      EXPECT_EQ(a.offset % kAlignment, 0u);
      EXPECT_LE(a.offset + a.bytes, total);
      for (std::size_t j = 0; j < i; ++j) {
        const MemoryPiece& b = pieces[j];
        const bool together = a.first <= b.last && b.first <= a.last;
        if (!together || a.bytes == 0 || b.bytes == 0) continue;
        EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset);
      }
    }
    EXPECT_LT(total, sum / 2) << "memory should be shared";
  }
}

}  // namespace
}  // namespace peal
