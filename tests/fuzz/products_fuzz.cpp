// Any text is a table of chosen ways of products or an Error(input) that names where it stood; what
// is read is in bounds, and is read again from what is printed of it.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/base/error.h"
#include "core/kernels/product_choices.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const peal::ProductChoices choices = peal::parse_product_choices(text, "fuzz");
    for (const auto& [product, algorithm] : choices.all()) {
      if (algorithm < 1 || algorithm > peal::ProductChoices::kMostAlgorithm) std::abort();
      for (const std::int64_t n : {product.batch, product.m, product.n, product.k})
        if (n < 1 || n > peal::ProductChoices::kMostSize) std::abort();
    }
    const std::string printed = peal::print_product_choices(choices);
    const peal::ProductChoices again = peal::parse_product_choices(printed, "printed");
    if (peal::print_product_choices(again) != printed) std::abort();
    if (again.size() != choices.size() || again.digest() != choices.digest()) std::abort();
    for (const auto& [product, algorithm] : choices.all())
      if (again.algorithm(product) != algorithm) std::abort();
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || !error.where().starts_with("fuzz")) std::abort();
  }
  return 0;
}
