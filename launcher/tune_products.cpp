#include "launcher/tune_products.h"

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

std::string outcome(const ProductTimes& times) {
  const double first = times.seconds[0], best = times.seconds[static_cast<std::size_t>(times.best)];
  const auto missing = std::ranges::count(times.seconds, 0.0);
  const std::string of = cat(" of ", std::ssize(times.seconds) - missing);
  if (times.best == 0) return cat(time_text(first), ", the first", of, " stays");
  return cat(time_text(first), "; algorithm ", times.best, of, " ", time_text(best), ", ",
             rounded("%.2f", first / best), " times as fast");
}

}  // namespace

std::vector<UsedProduct> products_of(const JobSpec& job, const Device& device) {
  std::vector<UsedProduct> products;
  std::map<MatmulSpec, std::size_t, ProductOrder> places;
  PlanOptions options = plan_options(job, device);
  options.choose_product = [&](const MatmulSpec& product) {
    const auto [place, is_new] = places.emplace(product, products.size());
    if (is_new) products.push_back({product});
    ++products[place->second].calls;
    return 0;
  };
  Graph graph;
  build_model(job.model(), records_of_pass(job), graph);
  add_stop_slot(graph);
  const Plan plan(graph, make_parameter_table(graph), device, /*training=*/true, options);
  return products;
}

bool tune_products(const std::vector<UsedProduct>& products, const ProductTuning& tuning,
                   ProductChoices& choices) {
  double first = 0, best = 0;  // seconds of a pass
  std::size_t done = 0;
  for (const auto& [spec, calls] : products) {
    if (tuning.stopped()) break;
    const ProductTimes times = time_product(spec, tuning.make, tuning.device, tuning.timing);
    choices.choose(spec, times.best);
    first += calls * times.seconds[0];
    best += calls * times.seconds[static_cast<std::size_t>(times.best)];
    ++done;
    tuning.say(cat(done, "/", products.size(), " ", text_of(spec), ", ", calls,
                   calls == 1 ? " time: " : " times: ", outcome(times)));
  }
  if (done > 0) {
    tuning.say(cat(done == products.size() ? "all" : "these", " in a pass: ", time_text(first),
                   "; as chosen ", time_text(best), ", ", rounded("%.2f", first / best),
                   " times as fast"));
  }
  return done == products.size();
}

ProductChoices choices_before(const std::string& file, const std::string& library,
                              const std::function<void(const std::string& line)>& say) {
  ProductChoices none;
  none.made_on = library;
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return none;
  try {
    ProductChoices before = read_product_choices(file);
    if (before.made_on == library) return before;
    say(cat("replacing ", file, ", which was made on \"", before.made_on, "\""));
  } catch (const Error& refused) {
    say(cat("replacing ", refused.what()));
  }
  return none;
}

}  // namespace peal
