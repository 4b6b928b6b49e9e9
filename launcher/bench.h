// What the `peal bench` commands share.
#pragma once

#include <vector>

namespace CLI {
class App;
}

namespace peal {

void add_bench_collectives(CLI::App& bench);

double seconds_now();  // of a steady clock

// The smallest of `values` that at least the share `quantile` of them does not exceed; reorders
// them, of which there must be one.
double quantile(std::vector<double>& values, double quantile);

}  // namespace peal
