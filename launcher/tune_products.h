// `peal bench products`: the matrix products of a job, how long a device's ways for each take, and
// the table of those that are quicker than its first (core/kernels/product_choices.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/config/job.pb.h"
#include "core/kernels/product_choices.h"
#include "launcher/time_product.h"

namespace peal {

struct UsedProduct {
  MatmulSpec spec;
  int calls = 0;  // in a pass
};

// Of a training pass as a rank with such a device computes it, in the order in which a plan makes
// them, each once. Reads no data; needs the memory of a plan while it runs.
std::vector<UsedProduct> products_of(const JobSpec& job, const Device& device);

struct ProductTuning {
  Device device;
  MakeProduct make;
  ProductTiming timing;
  std::function<void(const std::string& line)> say;
  std::function<bool()> stopped;  // asked before each product
};

// Times all and says a line of each; `choices` has what was chosen before, and then of each product
// that was timed what is quickest now. False when it was stopped.
bool tune_products(const std::vector<UsedProduct>& products, const ProductTuning& tuning,
                   ProductChoices& choices);

// What `file` holds where that is a table of products made on `library`, else none, with a line
// that says what it was. A file that is not there is none.
ProductChoices choices_before(const std::string& file, const std::string& library,
                              const std::function<void(const std::string& line)>& say);

}  // namespace peal
