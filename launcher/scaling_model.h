// What a training step takes on more ranks than are at hand: the step of a rank alone as measured,
// and the sums of its buckets as the cost lines of comm/cost_model.h say.
#pragma once

#include <span>
#include <vector>

#include "comm/cost_model.h"
#include "launcher/trainer.h"

namespace peal {

// A step of a rank alone, in seconds since it began.
struct StepProfile {
  std::vector<ReadyTime> ready;  // in order; the last one is the end of backward
  double end = 0;                // of the optimizer
};

struct BucketSum {
  std::size_t end = 0;  // bytes of the gradient arena up to which the bucket goes
  double seconds = 0;   // of its sum over ranks
  double beside = 0;    // the same while all ranks compute: longer where cores are few; 0: as long
};

struct StepForecast {
  double seconds = 0;  // the step
  double sums = 0;     // all buckets' sums
  double exposed = 0;  // by how much the step is longer than alone
};

// Sums run one after another, each from when its bucket is ready (`overlapped`; else from the end
// of backward), at the one speed until backward ends and at the other from then on; the optimizer
// updates a bucket's part once it is summed and backward is over.
// `taken`: the part of its speed that computing loses while a sum runs.
StepForecast forecast(const StepProfile& alone, std::span<const BucketSum> buckets, bool overlapped,
                      double taken);

// Who wants a machine's cores while sums run beside backward.
struct CoreUse {
  int cores = 1;
  int threads = 1;  // that compute
  double sums = 0;  // cores that sums keep busy
};
// What sums take from computing: nothing where there are cores to spare.
double speed_taken(const CoreUse& use);

// Ways that the sums of a tree's partial sums, or (not `tree`) any order of additions, can go.
std::vector<Way> ways_of_sum(const Spread& spread, bool tree);
// The quickest of them.
double seconds_of_sum(const CostModel& model, const Load& load, const Spread& spread, bool tree);

// One measured sum.
struct MeasuredSum {
  double bytes = 0, seconds = 0;
};
// A model in which the quickest way takes as long as measured for a small and a large sum of one
// input, on several hosts (a step and a byte over the link are fitted) or one (a meeting, a byte
// copied). The other costs are the built-in ones.
CostModel fit_link(const MeasuredSum& small, const MeasuredSum& large, const Spread& spread,
                   bool tree);

}  // namespace peal
