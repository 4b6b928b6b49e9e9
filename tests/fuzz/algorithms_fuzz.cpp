// Any text is a table of chosen ways of products or an Error(input) that names where it stood; what
// is read is in bounds, and is read again from what is printed of it.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/base/error.h"
#include "core/kernels/algorithm_choices.h"

namespace {

using peal::AlgorithmChoices;
using peal::Shape;

void check(int algorithm) {
  if (algorithm < 1 || algorithm > AlgorithmChoices::kMostAlgorithm) std::abort();
}

void check_size(std::int64_t n) {
  if (n < 1 || n > AlgorithmChoices::kMostSize + 1) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const peal::AlgorithmChoices choices = peal::parse_algorithm_choices(text, "fuzz");
    for (const auto& [product, algorithm] : choices.products()) {
      check(algorithm);
      for (const std::int64_t n : {product.batch, product.m, product.n, product.k}) check_size(n);
    }
    for (const auto& [call, algorithm] : choices.convolutions()) {
      check(algorithm);
      if (call.x.rank() != 4 || call.w.rank() != 4) std::abort();
      for (const Shape* shape : {&call.x, &call.w})
        for (const std::int64_t n : *shape) check_size(n);
      for (const std::int64_t n : call.stride) check_size(n);
      for (const std::int64_t n : call.dilation) check_size(n);
      for (const std::int64_t n : call.padding) check_size(n + 1);
      check_size(call.groups);
    }
    const std::string printed = peal::print_algorithm_choices(choices);
    const peal::AlgorithmChoices again = peal::parse_algorithm_choices(printed, "printed");
    if (peal::print_algorithm_choices(again) != printed) std::abort();
    if (again.size() != choices.size() || again.digest() != choices.digest()) std::abort();
    for (const auto& [product, algorithm] : choices.products())
      if (again.algorithm(product) != algorithm) std::abort();
    for (const auto& [call, algorithm] : choices.convolutions())
      if (again.algorithm(call) != algorithm) std::abort();
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || !error.where().starts_with("fuzz")) std::abort();
  }
  return 0;
}
