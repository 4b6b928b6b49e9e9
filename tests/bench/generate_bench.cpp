// How quickly a language model goes on with a text, on one thread:
//   generate_bench JOB WEIGHTS PROMPT TOKENS cached|full
// JOB names the model, WEIGHTS is a file of its weights; PROMPT tokens without sense are gone on
// with by TOKENS, drawn from all. `full` computes the whole text anew for each token, and the
// scores of all positions, as Peal once did. Prints one JSON object: the time until the first
// token, the median time of one more, how quickly this core reads memory, and which part of a
// token's time reading the weights once would take. generate_against_pytorch.sh uses it.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "core/base/clones.h"
#include "core/base/error.h"
#include "core/config/job.h"
#include "launcher/evaluation.h"
#include "launcher/language_model.h"
#include "launcher/next_token.h"

namespace peal {
namespace {

using Tokens = std::vector<std::int32_t>;

double seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

PEAL_CLONES float sum(const float* x, std::size_t count) {
  float lanes[128] = {};
  for (std::size_t i = 0; i + 128 <= count; i += 128)
    for (std::size_t j = 0; j < 128; ++j) lanes[j] += x[i + j];
  float all = 0;
  for (const float lane : lanes) all += lane;
  return all;
}

// Bytes per second, of memory far larger than a cache.
double read_bandwidth() {
  const Buffer memory(std::size_t{512} << 20);
  std::memset(memory.data(), 1, memory.size());
  std::vector<double> times;
  volatile float read = 0;
  for (int pass = 0; pass < 7; ++pass) {
    const double begin = seconds();
    read = read + sum(reinterpret_cast<const float*>(memory.data()), memory.size() / sizeof(float));
    times.push_back(seconds() - begin);
  }
  return static_cast<double>(memory.size()) / median(times);
}

// The forward pass of evaluation over the padded text.
class FullForward {
 public:
  FullForward(const ModelSpec& spec, const Checkpoint& checkpoint)
      : spec_(spec), context_(model_info(spec).record_shape[0]), weights_(spec, checkpoint) {}

  std::span<const float> scores(const Tokens& text) {
    const auto count = static_cast<std::int64_t>(text.size());
    std::int64_t length = std::min<std::int64_t>(16, context_);
    while (length < count) length = std::min(2 * length, context_);
    if (plan_ == nullptr || length != length_) make_plan(length);
    std::copy(text.begin(), text.end(), reinterpret_cast<std::int32_t*>(inputs_.data()));
    plan_->forward(stream_, {}, nullptr);
    const std::int64_t vocabulary = model_info(spec_).vocabulary;
    return {plan_->output("logits").as<float>() + (count - 1) * vocabulary,
            static_cast<std::size_t>(vocabulary)};
  }

 private:
  void make_plan(std::int64_t length) {
    plan_.reset();
    Graph graph;
    build_model(spec_, /*batch=*/1, graph, length);
    add_stop_slot(graph);
    plan_ = std::make_unique<Plan>(graph, weights_.table(), kCpu, /*training=*/false);
    weights_.bind(*plan_);
    inputs_ = Buffer(static_cast<std::size_t>(length) * sizeof(std::int32_t));
    rest_ = Buffer(inputs_.size());
    const auto set = [&](const char* name, const Buffer& buffer, const Shape& shape, DType dtype) {
      plan_->set_input(name, {.data = buffer.data(), .shape = shape, .dtype = dtype});
    };
    set("x", inputs_, {1, length}, DType::i32);
    set("labels", rest_, {1, length}, DType::i32);
    set("weight", rest_, {1}, DType::f32);
    set("stop", rest_, {1}, DType::f32);
    length_ = length;
  }

  ModelSpec spec_;
  std::int64_t context_, length_ = 0;
  ModelWeights weights_;
  Buffer inputs_, rest_;
  std::unique_ptr<Plan> plan_;
  Stream stream_;
};

struct Speed {
  double first = 0, each = 0;  // seconds
};

template <typename Scores>
Speed measure(const Scores& scores, Tokens text, int count) {
  NextToken next({});
  Speed speed;
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    const double begin = seconds();
    text.push_back(next.draw(scores(text), text.size()));
    (i == 0 ? speed.first : times.emplace_back()) = seconds() - begin;
  }
  times.erase(times.begin());  // which made the plan for one more token
  speed.each = median(times);
  return speed;
}

std::int64_t parameter_bytes(const ModelSpec& spec) {
  Graph graph;
  build_model(spec, /*batch=*/1, graph);
  std::int64_t count = 0;
  for (const ArenaEntry& e : make_parameter_table(graph).parameters) count += e.shape.numel();
  return count * static_cast<std::int64_t>(sizeof(float));
}

int run(char** argv) {
  const ModelSpec spec = load_job(argv[1]).model();
  const int prompt = std::atoi(argv[3]), count = std::atoi(argv[4]);
  const std::string_view way = argv[5];
  if (prompt < 1 || count < 4 || (way != "cached" && way != "full"))
    fail_input("generate_bench", "wants a PROMPT of 1 and more, TOKENS of 4 and more, and the way");
  Speed speed;
  {
    const Checkpoint checkpoint = Checkpoint::open(argv[2]);
    Tokens text;
    for (int i = 0; i < prompt; ++i)
      text.push_back(static_cast<std::int32_t>(i * 7919 % model_info(spec).vocabulary));
    if (way == "full") {
      FullForward model(spec, checkpoint);
      speed = measure([&](const Tokens& t) { return model.scores(t); }, text, count);
    } else {
      LanguageModel model(spec, checkpoint);
      speed = measure([&](const Tokens& t) { return model.scores(t); }, text, count);
    }
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double bandwidth = read_bandwidth(), bytes = static_cast<double>(parameter_bytes(spec));
  std::printf(
      "{\"first_seconds\": %.4f, \"tokens_per_second\": %.3f, \"peak_mib\": %ld, "
      "\"read_gb_per_second\": %.2f, \"of_memory_bound\": %.3f}\n",
      speed.first, 1 / speed.each, usage.ru_maxrss / 1024, bandwidth * 1e-9,
      bytes / bandwidth / speed.each);
  return 0;
}

}  // namespace
}  // namespace peal

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fputs("usage: generate_bench JOB WEIGHTS PROMPT TOKENS cached|full\n", stderr);
    return 2;
  }
  try {
    return peal::run(argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "generate_bench: %s\n", error.what());
    return 2;
  }
}
