// `peal bench algorithms`: the matrix products and convolutions of a job, how long a device's ways
// for each take, and the table of those that are quicker than its first
// (core/kernels/algorithm_choices.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/config/job.pb.h"
#include "core/kernels/algorithm_choices.h"
#include "launcher/time_algorithms.h"

namespace peal {

struct UsedProduct {
  MatmulSpec spec;
  int calls = 0;  // in a pass
};
struct UsedConvolution {
  Conv2dSpec spec;
  ConvPass pass;
  int calls = 0;
};
struct UsedAlgorithms {
  std::vector<UsedProduct> products;
  std::vector<UsedConvolution> convolutions;
  std::size_t size() const { return products.size() + convolutions.size(); }
};

// Of a training pass as a rank with such a device computes it, in the order in which a plan makes
// them, each once. Reads no data; needs the memory of a plan while it runs.
UsedAlgorithms algorithms_of(const JobSpec& job, const Device& device);

struct AlgorithmTuning {
  Device device;
  MakeProduct make_product;
  MakeConvolution make_convolution;
  AlgorithmTiming timing;
  std::function<void(const std::string& line)> say;
  std::function<bool()> stopped;  // asked before each
};

// Times all and says a line of each; `choices` has what was chosen before, and then of each that
// was timed what is quickest now. False when it was stopped.
bool tune_algorithms(const UsedAlgorithms& used, const AlgorithmTuning& tuning,
                     AlgorithmChoices& choices);

// What `file` holds where that is a table made on `library`, else none, with a line that says what
// it was. A file that is not there is none.
AlgorithmChoices choices_before(const std::string& file, const std::string& library,
                                const std::function<void(const std::string& line)>& say);

}  // namespace peal
