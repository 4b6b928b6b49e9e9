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
  // |costs / measured - 1| over the samples, without the model's factors.
  double median_error = 0, largest_error = 0;
};

// Samples are of the sizes of CostModel::factors, each way's in their order. Least squares of
// relative errors, in which samples far from the others weigh less, without
// negative costs. Values [first, first + count) of `start` are fitted, the others stay; so do the
// factors of ways without a sample. What is left becomes the factors of the others,
// where bytes are most of a call.
CostFit fit_costs(const std::vector<CostSample>& samples, const CostModel& start, std::size_t first,
                  std::size_t count);

}  // namespace peal
