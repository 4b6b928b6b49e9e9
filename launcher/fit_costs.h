// Fits a cost model to measured calls.
#pragma once

#include <vector>

#include "comm/cost_model.h"

namespace peal {

struct CostSample {
  Way way = Way::slices;
  Load load;
  Spread spread;
  double seconds = 0;
};

struct CostFit {
  CostModel model;
  // |model / measured - 1| over the samples.
  double median_error = 0, largest_error = 0;
};

// Least squares of relative errors, in which samples far from the others weigh less, without
// negative costs. Values [first, first + count) of `start` are fitted, the others stay.
CostFit fit_costs(const std::vector<CostSample>& samples, const CostModel& start, std::size_t first,
                  std::size_t count);

}  // namespace peal
