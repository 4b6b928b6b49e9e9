#include "launcher/fit_costs.h"

#include <algorithm>
#include <cmath>

#include "launcher/bench.h"

namespace peal {
namespace {

constexpr int kSweeps = 2000, kFitRounds = 20;
constexpr double kNear = 0.02;  // relative errors below it weigh alike

// A row says that values * row is 1, in units of what was measured; what stays is on the right.
struct FitRow {
  std::vector<double> row;
  double right = 1, weight = 1;
};

std::vector<FitRow> rows_of(const std::vector<CostSample>& samples, const CostModel& start,
                            std::size_t first, std::size_t count) {
  std::vector<FitRow> rows;
  for (const CostSample& sample : samples) {
    const CostModel::Values often = counts(sample.way, sample.load, sample.spread);
    const CostModel::Values each = start.values();
    FitRow row;
    for (std::size_t i = 0; i < often.size(); ++i) {
      const double part = often[i] / sample.seconds;
      if (i >= first && i < first + count) {
        row.row.push_back(part);
      } else {
        row.right -= each[i] * part;
      }
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

double error_of(const FitRow& row, const std::vector<double>& values) {
  double sum = -row.right;
  for (std::size_t i = 0; i < values.size(); ++i) sum += row.row[i] * values[i];
  return sum;
}

// Coordinate descent: each value in turn is best, given the others, and not below 0. Slow and sure;
// there are four.
void solve(const std::vector<FitRow>& rows, std::vector<double>& values) {
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      double up = 0, down = 0;
      for (const FitRow& row : rows) {
        const double others = row.row[i] * values[i] - error_of(row, values);
        up += row.weight * row.row[i] * others;
        down += row.weight * row.row[i] * row.row[i];
      }
      if (down > 0) values[i] = std::max(0.0, up / down);
    }
  }
}

struct Modelled {
  double all = 0, waits = 0;  // seconds; of them, meetings and messages
};

Modelled modelled(const CostSample& sample, const CostModel& model) {
  const CostModel::Values often = counts(sample.way, sample.load, sample.spread);
  const CostModel::Values each = model.values();
  Modelled sum;
  for (std::size_t i = 0; i < often.size(); ++i) {
    sum.all += often[i] * each[i];
    if (CostModel::is_wait(i)) sum.waits += often[i] * each[i];
  }
  return sum;
}

// Where waits are most of a call, how long they were is the machine's mood more than the way: there
// the lines hold. Samples come by size: the last of a way also stands for what is longer.
void set_factor(CostModel& model, const CostSample& sample) {
  const Modelled lines = modelled(sample, model);
  if (2 * lines.waits > lines.all) return;
  const double place = std::log2(sample.load.bytes / CostModel::kFirstSize);
  CostModel::Factors& factors = model.factors[static_cast<std::size_t>(sample.way)];
  for (auto i = static_cast<std::size_t>(std::max(0.0, std::round(place))); i < factors.size();
       ++i) {
    factors[i] = sample.seconds / lines.all;
  }
}

}  // namespace

CostFit fit_costs(const std::vector<CostSample>& samples, const CostModel& start, std::size_t first,
                  std::size_t count) {
  std::vector<FitRow> rows = rows_of(samples, start, first, count);
  CostModel::Values all = start.values();
  std::vector<double> values(all.begin() + static_cast<std::ptrdiff_t>(first),
                             all.begin() + static_cast<std::ptrdiff_t>(first + count));
  for (int round = 0; round < kFitRounds; ++round) {
    solve(rows, values);
    for (FitRow& row : rows) row.weight = 1 / std::max(kNear, std::abs(error_of(row, values)));
  }
  std::copy(values.begin(), values.end(), all.begin() + static_cast<std::ptrdiff_t>(first));
  std::vector<double> errors;
  for (const FitRow& row : rows) errors.push_back(std::abs(error_of(row, values)));
  CostFit fit{start};
  fit.model.set(all);
  for (const CostSample& sample : samples) {
    fit.model.factors[static_cast<std::size_t>(sample.way)].fill(1);
  }
  for (const CostSample& sample : samples) set_factor(fit.model, sample);
  fit.median_error = quantile(errors, 0.5);
  fit.largest_error = quantile(errors, 1);
  return fit;
}

}  // namespace peal
