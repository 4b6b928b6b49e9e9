// What the `peal bench` commands share.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"

namespace CLI {
class App;
}

namespace peal {

class JobSpec;

void add_bench_collectives(CLI::App& bench);
void add_bench_overlap(CLI::App& bench);
void add_bench_algorithms(CLI::App& bench);
void add_bench_scaling(CLI::App& bench);

// The job as it is measured: long enough for `steps`, without test records, checked. Nothing is
// written. Collective; throws on every rank alike.
JobSpec job_to_measure(JobSpec job, Communicator& comm, std::int64_t steps);

double seconds_now();  // of a steady clock

// The smallest of `values` that at least the share `quantile` of them does not exceed; reorders
// them, of which there must be one.
double quantile(std::vector<double>& values, double quantile);

}  // namespace peal
