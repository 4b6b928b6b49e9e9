// Which token comes next: drawn from what a language model says.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace peal {

struct DrawOptions {
  double temperature = 1;  // scores are divided by it; 0: always the token with the highest score
  std::int64_t top_k = 0;  // of the k highest scores only; 0: of all
  double top_p = 1;        // of the fewest tokens that together have this probability (nucleus
                           // sampling, Holtzman et al. 2020, section 3.1), after top_k
  std::uint64_t seed = 1;
};

// A pure function of the scores, the options and `position`, the place of the new token in the
// text: draws come from our counter-based random numbers (core/base/random.h). Of equal scores the
// smaller id stands first.
class NextToken {
 public:
  // Throws Error(input) that names the option.
  explicit NextToken(const DrawOptions& options);

  // scores (V): logits. Throws Error(numeric) when one is not finite. Cost: V, or V log k.
  std::int32_t draw(std::span<const float> scores, std::uint64_t position);

 private:
  void order_all(std::span<const float> scores);

  DrawOptions options_;
  std::vector<std::uint64_t> keys_, other_keys_;  // of order_all
  std::vector<std::int32_t> order_;               // ids, the highest score first
  std::vector<double> mass_;                      // in that order, up to a factor
};

}  // namespace peal
