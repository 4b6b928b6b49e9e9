// Times a device's ways for a matrix product (MatmulSpec::algorithm) or for a pass of a convolution
// (Conv2dSpec::algorithms), one beside the other.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/kernels/kernels.h"
#include "launcher/bench.h"

namespace peal {

struct AlgorithmTiming {
  int most_ways = 8;            // of each kind: twice as many where a product has sums
  int rounds = 11;              // in each of which every way has its turn
  double turn_seconds = 0.005;  // about: as many calls as take so long, at least one
  // Another way than the first is the best when it takes so much less of its time.
  double least_gain = 0.02;
  // Calls take turns with several sets of operands where one is smaller: as in training, caches
  // then hold little of what they read.
  std::size_t operand_bytes = std::size_t{128} << 20;
  std::function<double()> now = seconds_now;
};

struct AlgorithmTimes {
  // Of a call, by algorithm: the median over the rounds; 0 where there is none of that number.
  std::vector<double> seconds;
  int best = 0;
};

using MakeProduct = std::function<std::unique_ptr<Matmul>(const MatmulSpec&)>;
using MakeConvolution = std::function<std::unique_ptr<Conv2d>(const Conv2dSpec&)>;

// Of those ways that `make` makes; of others than the first it may throw Error(input) instead.
// Operands hold random values. Ways are compared round by round, so that a clock which changes
// meets all alike, and the best once more with the first alone: the least of several times that
// differ by chance would not be the least again. Calls are replayed as a recording, as the host
// takes longer than small ones do.
AlgorithmTimes time_algorithms(const MatmulSpec& product, const MakeProduct& make,
                               const Device& device, const AlgorithmTiming& timing = {});
// Of that pass, which the spec must have; its other passes stay as they are.
AlgorithmTimes time_algorithms(const Conv2dSpec& convolution, ConvPass pass,
                               const MakeConvolution& make, const Device& device,
                               const AlgorithmTiming& timing = {});

}  // namespace peal
