// What only a GPU needs, done on the CPU as well (trainer_hooks.h): recorded passes, and results of
// steps that are read one step late. A run with them leaves what a run without leaves.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/random.h"
#include "core/config/job.h"
#include "launcher/job_setup.h"
#include "launcher/train.h"
#include "launcher/trainer.h"
#include "launcher/trainer_hooks.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

// 90 records in batches of 32: the last of an epoch is ragged.
std::string csv() {
  std::ostringstream text;
  text << "a,b,c,d,class\n";
  const Random random({.seed = 4});
  for (std::uint64_t i = 0; i < 90; ++i) {
    double sum = 0;
    for (std::uint64_t j = 0; j < 4; ++j) {
      const double value = random.normal(4 * i + j);
      sum += value;
      text << value << ",";
    }
    text << (sum > 0 ? 1 : 0) << "\n";
  }
  return text.str();
}

constexpr const char* kJob = R"(
data { train { csv { path: "DATA" label_column: "class" } }
       test { csv { path: "DATA" label_column: "class" } limit: 30 } }
model { mlp { inputs: 4 hidden: 40 hidden: 24 outputs: 2 loss: SOFTMAX dropout: 0.3 batch_norm: true } }
optimizer { adam { learning_rate: 0.01 } }
schedule { cosine {} warmup_steps: 3 }
train { epochs: 5 global_batch: 32 seed: 3 }
parallel { virtual_ranks: 8 bucket_size: "1KiB" }
checkpoint { every_steps: 4 keep: 2 }
eval { every_epochs: 2 }
run { directory: "RUN" log_every_steps: 2 tensorboard: false }
)";

// A scaled gradient overflows in some of the first steps, and the scale grows again after.
const std::vector<std::string> kOverflowing = {"train.clip_norm=1",
                                               "train.loss_scaling=DYNAMIC",
                                               "train.loss_scale=16777216",
                                               "train.loss_scale_grows_after=2",
                                               "data.preprocess[0].scale.factor=1e34",
                                               "model.mlp.batch_norm=false",
                                               "model.mlp.dropout=0",
                                               "parallel.shard_optimizer=true",
                                               "run.log_every_steps=1"};

struct Outcome {
  std::string weights;                        // bytes of the newest checkpoint
  std::vector<nlohmann::ordered_json> lines;  // of metrics, without speeds
};

std::string newest_weights(const std::filesystem::path& run) {
  std::filesystem::path newest;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(run / "checkpoints"))
    if (entry.path().filename() == "weights.safetensors" && entry.path() > newest)
      newest = entry.path();
  return read_file(newest);
}

std::vector<nlohmann::ordered_json> metrics_of(const std::filesystem::path& run) {
  std::vector<nlohmann::ordered_json> lines;
  std::istringstream file(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(file, line);) {
    lines.push_back(nlohmann::ordered_json::parse(line));
    lines.back().erase("samples_per_second");
  }
  return lines;
}

class TrainHooks : public testing::Test {
 protected:
  TrainHooks() { write_file_atomically(folder_.path() / "records.csv", csv()); }

  JobSpec job(const std::vector<std::string>& settings) {
    std::string text = kJob;
    const auto replace = [&](const std::string& word, const std::string& by) {
      for (std::size_t at; (at = text.find(word)) != std::string::npos;)
        text.replace(at, word.size(), by);
    };
    run_ = folder_.path() / cat("run-", ++runs_);
    replace("DATA", (folder_.path() / "records.csv").string());
    replace("RUN", run_.string());
    JobSpec spec = parse_job(text, "job");
    for (const std::string& setting : settings) set_field(spec, setting);
    return spec;
  }

  Outcome run(const std::vector<std::string>& settings, int ranks, const TrainerHooks& hooks) {
    const JobSpec spec = job(settings);
    run_local_ranks(ranks, [&](Communicator& comm) { train(spec, comm, {.hooks = hooks}); });
    return {newest_weights(run_), metrics_of(run_)};
  }

  TemporaryFolder folder_;
  std::filesystem::path run_;  // the newest
  int runs_ = 0;
};

TEST_F(TrainHooks, RecordedPassesHaveTheBitsOfPlainOnes) {
  const std::vector<std::vector<std::string>> jobs = {
      {},
      {"train.accumulate_steps=2", "parallel.threads=1"},
      {"train.clip_norm=0.5", "parallel.shard_optimizer=true"},
      {"parallel.overlap=false", "train.accumulate_steps=4"},
      {"parallel.compression.bf16={}"},
      {"parallel.compression.power_sgd.rank=2"},
      kOverflowing};
  for (const auto& settings : jobs) {
    const Outcome plain = run(settings, 1, {});
    EXPECT_GT(plain.lines.size(), 9u);
    for (const int ranks : {1, 2, 3}) {
      const Outcome recorded = run(settings, ranks, {.record = true});
      const std::string what = cat(settings.empty() ? "the job" : settings[0], ", ranks ", ranks);
      EXPECT_EQ(recorded.weights, plain.weights) << what;
      EXPECT_EQ(recorded.lines, plain.lines) << what;
    }
  }
  EXPECT_NE(run({"train.seed=4"}, 1, {.record = true}).weights, run({}, 1, {}).weights);
}

TEST_F(TrainHooks, LateResultsLeaveTheSameRun) {
  const std::vector<std::vector<std::string>> jobs = {
      {},
      {"train.clip_norm=0.5"},
      {"train.clip_norm=0.5", "parallel.shard_optimizer=true", "run.log_every_steps=3"},
      {"checkpoint.every_steps=0", "eval.every_epochs=0", "run.log_every_steps=1"},
      {"optimizer.sgd.momentum=0.9", "train.max_steps=7", "train.accumulate_steps=2"},
      kOverflowing};
  for (const auto& settings : jobs) {
    const Outcome prompt = run(settings, 1, {});
    EXPECT_GT(prompt.lines.size(), 3u);
    for (const int ranks : {1, 2, 3}) {
      for (const bool record : {false, true}) {
        const Outcome late = run(settings, ranks, {.record = record, .late = true});
        const std::string what = cat(settings.empty() ? "the job" : settings[0], ", ranks ", ranks);
        EXPECT_EQ(late.weights, prompt.weights) << what;
        EXPECT_EQ(late.lines, prompt.lines) << what;
      }
    }
  }
}

TEST_F(TrainHooks, TheOverflowingRunOverflows) {
  double least = 1e9, last = 0;
  for (const auto& line : run(kOverflowing, 1, {.record = true, .late = true}).lines) {
    if (!line.contains("loss_scale")) continue;
    last = line["loss_scale"].get<double>();
    least = std::min(least, last);
  }
  EXPECT_LT(least, 16777216);
  EXPECT_GT(last, least);
}

TEST_F(TrainHooks, ClippingClips) {
  const Outcome clipped = run({"train.clip_norm=0.05"}, 1, {.late = true});
  EXPECT_NE(clipped.weights, run({}, 1, {}).weights);
  EXPECT_EQ(run({"train.clip_norm=1e6"}, 1, {.late = true}).weights, run({}, 1, {}).weights);
  EXPECT_GT(clipped.lines[0]["gradient_norm"].get<double>(), 0.05) << "as it was before";
}

// The trainer alone, with all that it has of a state.
struct Stepped {
  std::string error;
  std::int64_t at = -1;  // step() that threw
  std::vector<std::int64_t> results;
  std::vector<float> state;  // weights, running averages, optimizer states
};

Stepped step_until_error(const JobSpec& job, Communicator& comm, const TrainerHooks& hooks) {
  Trainer trainer(job, comm, open_data(job, model_info(job.model()), comm), hooks);
  if (comm.rank() == 0) trainer.initialize_weights();
  trainer.start(0);
  Stepped out;
  try {
    for (std::int64_t step = 0; step < trainer.total_steps(); ++step) {
      out.at = step;
      if (const auto result = trainer.step(step, /*stop_asked=*/step == 2, /*want_norm=*/false)) {
        out.results.push_back(result->step);
        EXPECT_EQ(result->stop, result->step == 2);
      }
    }
    if (const auto result = trainer.finish()) out.results.push_back(result->step);
    EXPECT_FALSE(trainer.finish());
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::numeric);
    out.error = error.what();
  }
  trainer.read_back();
  std::vector<NamedTensor> all = trainer.weights();
  for (NamedTensor& state : trainer.optimizer_state()) all.push_back(state);
  for (const NamedTensor& each : all)
    out.state.insert(out.state.end(), each.tensor.as<float>(),
                     each.tensor.as<float>() + each.tensor.numel());
  return out;
}

// However late the host sees it, a loss that is not finite changes nothing: the step that was
// enqueued since neither, running averages and optimizer states included.
TEST_F(TrainHooks, ALossThatIsNotFiniteChangesNothing) {
  for (const std::string clip : {"train.clip_norm=0", "train.clip_norm=1e30"}) {
    JobSpec spec = job({"optimizer.sgd.learning_rate=1e18", "optimizer.sgd.momentum=0.9", clip,
                        "model.mlp.batch_norm=false", "schedule={constant{}}"});
    spec.mutable_model()->mutable_mlp()->set_activation(MlpSpec::LEAKY_RELU);
    for (const bool norm : {false, true}) {
      spec.mutable_model()->mutable_mlp()->set_batch_norm(norm);
      std::vector<Stepped> seen;
      for (const bool late : {false, true}) {
        for (const int ranks : {1, 2}) {
          run_local_ranks(ranks, [&](Communicator& comm) {
            Stepped one = step_until_error(spec, comm, {.late = late});
            if (comm.rank() == 0) seen.push_back(std::move(one));
          });
        }
      }
      for (const Stepped& one : seen) {
        EXPECT_EQ(one.error, seen[0].error);
        EXPECT_EQ(one.state, seen[0].state);
        EXPECT_EQ(one.results, seen[0].results);
      }
      ASSERT_EQ(seen.size(), 4u);
      EXPECT_NE(seen[0].error.find("weights are as they were before this step"), std::string::npos)
          << "the test tests nothing: " << seen[0].error;
      EXPECT_EQ(seen[2].at, seen[0].at + 1) << "seen one step late";
      if (norm) continue;  // where a finite loss comes before weights that are not
      for (const float value : seen[0].state) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

// A field for GPUs changes nothing on a CPU, nor which job it is.
TEST_F(TrainHooks, CudaGraphsAreNothingToACpu) {
  const Outcome without = run({"train.max_steps=5"}, 1, {});
  const Outcome with = run({"train.max_steps=5", "train.cuda_graphs=false"}, 1, {});
  EXPECT_EQ(with.weights, without.weights);
  EXPECT_EQ(job_hash(job({"train.cuda_graphs=false"})), job_hash(job({})));
}

}  // namespace
}  // namespace peal
