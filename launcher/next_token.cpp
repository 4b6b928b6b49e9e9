#include "launcher/next_token.h"

#include <algorithm>
#include <array>
#include <bit>
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

// A radix sort: comparisons would take a third of the time that GPT-2 takes for a token.
void NextToken::order_all(std::span<const float> scores) {
  constexpr int kBits = 11;  // of a pass; three make a float
  constexpr std::uint64_t kBuckets = std::uint64_t{1} << kBits;
  keys_.clear();
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(scores[i] == 0 ? 0.0f : scores[i]);
    const std::uint32_t falling = bits >> 31 != 0 ? bits : ~bits & 0x7fffffffu;
    keys_.push_back(std::uint64_t{falling} << 32 | i);
  }
  other_keys_.resize(keys_.size());
  for (int shift = 32; shift < 64; shift += kBits) {
    std::array<std::size_t, kBuckets> next{};
    for (const std::uint64_t key : keys_) ++next[key >> shift & (kBuckets - 1)];
    std::exclusive_scan(next.begin(), next.end(), next.begin(), std::size_t{0});
    for (const std::uint64_t key : keys_) other_keys_[next[key >> shift & (kBuckets - 1)]++] = key;
    keys_.swap(other_keys_);
  }
  for (std::size_t i = 0; i < keys_.size(); ++i)
    order_[i] = static_cast<std::int32_t>(keys_[i] & 0xffffffffu);
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
  std::size_t kept = scores.size();
  if (options_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options_.top_k));
  if (options_.temperature == 0) kept = 1;
  order_.resize(scores.size());
  if (kept == scores.size()) {
    order_all(scores);
  } else {
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(kept),
                      order_.end(), higher);
  }
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
