#include "launcher/tune_algorithms.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>

#include "core/base/error.h"
#include "core/graph/plan.h"
#include "launcher/evaluation.h"
#include "launcher/job_setup.h"
#include "models/model.h"

namespace peal {
namespace {

std::string rounded(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string time_text(double seconds) {
  if (seconds < 1e-3) return rounded("%.1f us", 1e6 * seconds);
  return seconds < 1 ? rounded("%.2f ms", 1e3 * seconds) : rounded("%.2f s", seconds);
}

std::string outcome(const AlgorithmTimes& times) {
  const double first = times.seconds[0], best = times.seconds[static_cast<std::size_t>(times.best)];
  const auto missing = std::ranges::count(times.seconds, 0.0);
  const std::string of = cat(" of ", std::ssize(times.seconds) - missing);
  if (times.best == 0) return cat(time_text(first), ", the first", of, " stays");
  return cat(time_text(first), "; algorithm ", times.best, of, " ", time_text(best), ", ",
             rounded("%.2f", first / best), " times as fast");
}

// Times one after the other and keeps the sums.
class AlgorithmsTuner {
 public:
  AlgorithmsTuner(std::size_t all, const AlgorithmTuning& tuning, AlgorithmChoices& choices)
      : all_(all), tuning_(tuning), choices_(choices) {}

  // False when it was stopped. `time` gives the AlgorithmTimes of `what`, as a table names it.
  template <typename What, typename Time>
  bool measure(const What& what, int calls, const Time& time) {
    if (tuning_.stopped()) return false;
    const AlgorithmTimes times = time();
    choices_.choose(what, times.best);
    first_ += calls * times.seconds[0];
    best_ += calls * times.seconds[static_cast<std::size_t>(times.best)];
    ++done_;
    tuning_.say(cat(done_, "/", all_, " ", text_of(what), ", ", calls,
                    calls == 1 ? " time: " : " times: ", outcome(times)));
    return true;
  }

  bool finish() const {
    if (done_ > 0) {
      tuning_.say(cat(done_ == all_ ? "all" : "these", " in a pass: ", time_text(first_),
                      "; as chosen ", time_text(best_), ", ", rounded("%.2f", first_ / best_),
                      " times as fast"));
    }
    return done_ == all_;
  }

 private:
  const std::size_t all_;
  const AlgorithmTuning& tuning_;
  AlgorithmChoices& choices_;
  double first_ = 0, best_ = 0;  // seconds of a pass
  std::size_t done_ = 0;
};

// Adds what is new behind the others and counts its calls.
template <typename Key, typename Used>
void count(std::map<Key, std::size_t, AlgorithmOrder>& places, const Key& key,
           std::vector<Used>& all, const Used& used) {
  const auto [place, is_new] = places.emplace(key, all.size());
  if (is_new) all.push_back(used);
  ++all[place->second].calls;
}

}  // namespace

UsedAlgorithms algorithms_of(const JobSpec& job, const Device& device) {
  UsedAlgorithms used;
  std::map<MatmulSpec, std::size_t, AlgorithmOrder> products;
  std::map<ConvCall, std::size_t, AlgorithmOrder> convolutions;
  PlanOptions options = plan_options(job, device);
  options.choose.product = [&](const MatmulSpec& spec) {
    count(products, spec, used.products, {spec});
    return 0;
  };
  options.choose.convolution = [&](const Conv2dSpec& spec, ConvPass pass) {
    count(convolutions, {spec, pass}, used.convolutions, {spec, pass});
    return 0;
  };
  Graph graph;
  build_model(job.model(), records_of_pass(job), graph);
  add_stop_slot(graph);
  const Plan plan(graph, make_parameter_table(graph), device, /*training=*/true, options);
  return used;
}

bool tune_algorithms(const UsedAlgorithms& used, const AlgorithmTuning& tuning,
                     AlgorithmChoices& choices) {
  AlgorithmsTuner tuner(used.size(), tuning, choices);
  bool goes_on = true;
  for (const UsedProduct& product : used.products) {
    goes_on = goes_on && tuner.measure(product.spec, product.calls, [&] {
      return time_algorithms(product.spec, tuning.make_product, tuning.device, tuning.timing);
    });
  }
  for (const UsedConvolution& of : used.convolutions) {
    goes_on = goes_on && tuner.measure(ConvCall(of.spec, of.pass), of.calls, [&] {
      return time_algorithms(of.spec, of.pass, tuning.make_convolution, tuning.device,
                             tuning.timing);
    });
  }
  return tuner.finish();
}

AlgorithmChoices choices_before(const std::string& file, const std::string& library,
                                const std::function<void(const std::string& line)>& say) {
  AlgorithmChoices none;
  none.made_on = library;
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return none;
  try {
    AlgorithmChoices before = read_algorithm_choices(file);
    if (before.made_on == library) return before;
    say(cat("replacing ", file, ", which was made on \"", before.made_on, "\""));
  } catch (const Error& refused) {
    say(cat("replacing ", refused.what()));
  }
  return none;
}

}  // namespace peal
