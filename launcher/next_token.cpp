#include "launcher/next_token.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/error.h"
#include "core/base/random.h"

namespace peal {
namespace {

constexpr std::uint64_t kSite = 0x67656e6572617465;  // apart from every draw of training

}  // namespace

NextToken::NextToken(const DrawOptions& options) : options_(options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    fail_input("--temperature", options.temperature, "; allowed are 0 and above");
  }
  if (options.top_k < 0) fail_input("--top-k", options.top_k, "; allowed are 0 and above");
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    fail_input("--top-p", options.top_p, "; allowed are numbers above 0, up to 1");
  }
}

std::int32_t NextToken::draw(std::span<const float> scores, std::uint64_t position) {
  for (const float score : scores) {
    if (!std::isfinite(score)) {
      throw Error(ErrorKind::numeric, cat("token ", position), cat("the model says ", score));
    }
  }
  const auto higher = [&](std::int32_t a, std::int32_t b) {
    const float x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  order_.resize(scores.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::size_t kept = scores.size();
  if (options_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options_.top_k));
  if (options_.temperature == 0) kept = 1;
  std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(kept),
                    order_.end(), higher);
  if (kept == 1) return order_[0];

  const auto score = [&](std::size_t i) {
    return static_cast<double>(scores[static_cast<std::size_t>(order_[i])]);
  };
  mass_.resize(kept);
  double all = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    mass_[i] = std::exp((score(i) - score(0)) / options_.temperature);
    all += mass_[i];
  }
  double nucleus = 0;
  std::size_t end = 0;
  while (end < kept && (end == 0 || nucleus < options_.top_p * all)) nucleus += mass_[end++];

  const Random random({.seed = options_.seed, .site = kSite});
  double left = static_cast<double>(random.u64(position) >> 11) * 0x1p-53 * nucleus;
  for (std::size_t i = 0; i + 1 < end; ++i) {
    left -= mass_[i];
    if (left < 0) return order_[i];
  }
  return order_[end - 1];
}

}  // namespace peal
