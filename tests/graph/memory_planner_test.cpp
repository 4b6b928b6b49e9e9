#include "core/graph/memory_planner.h"

#include <gtest/gtest.h>

#include "core/base/random.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

bool lives(const MemoryPiece& piece, int call) {
  return (piece.life.first <= call && call <= piece.life.last) ||
         (piece.again.first <= call && call <= piece.again.last);
}

TEST(MemoryPlanner, NeverPutsTwoLivingPiecesOnTopOfEachOther) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Random random({.seed = seed});
    std::vector<MemoryPiece> pieces;
    for (std::uint64_t i = 0; i < 60; ++i) {
      const auto words = random.words(i);
      const int first = static_cast<int>(words[0] % 40);
      pieces.push_back({words[1] % 5000, {first, first + static_cast<int>(words[2] % 10)}});
      const int again = first + 20 + static_cast<int>(words[3] % 20);
      if (words[3] % 3 == 0) pieces.back().again = {again, again + 3};
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
        bool together = false;
        for (int call = 0; call < 100; ++call) together |= lives(a, call) && lives(b, call);
        if (!together || a.bytes == 0 || b.bytes == 0) continue;
        EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset);
      }
    }
    EXPECT_LT(total, sum / 2) << "memory should be shared";
  }
}

TEST(MemoryPlanner, LetsAPieceLieWhereAnotherIsBetweenItsTwoLives) {
  std::vector<MemoryPiece> pieces = {{100, {0, 1}, {5, 6}}, {100, {2, 4}, {}}, {100, {6, 7}, {}}};
  EXPECT_EQ(place(pieces), 2 * align_up(100));
  EXPECT_EQ(pieces[0].offset, pieces[1].offset);
}

}  // namespace
}  // namespace peal
