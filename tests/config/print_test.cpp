// The effective job, its hash and the help.
#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <random>

#include "core/base/error.h"
#include "core/config/job.h"

namespace peal {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(EffectiveJob, WritesEveryDefaultInSchemaOrder) {
  EXPECT_EQ(effective_job(JobSpec()), R"(name: ""
run {
  directory: "runs/peal"
  log_every_steps: 50
  histograms_every_steps: 0
  tensorboard: true
}
data {
  prefetch_batches: 4
  loader_threads: 1
  shuffle: true
  shuffle_window_shards: 0
}
schedule {
  constant {}
  warmup_steps: 0
}
train {
  epochs: 1
  max_steps: 0
  global_batch: 64
  seed: 1
  accumulate_steps: 1
  clip_norm: 0
  precision: F32
  recompute: NONE
  loss_scaling: AUTO
  loss_scale: 65536
  loss_scale_grows_after: 2000
  cuda_graphs: true
  algorithms: ""
  algorithms_digest: ""
}
parallel {
  virtual_ranks: 0
  reduction: RANK_INVARIANT
  bucket_size: "1MiB"
  threads: 0
  start_deadline_seconds: 300
  deadline_seconds: 60
  overlap: true
  device: CPU
  gpu_comm: AUTO
  shard_optimizer: false
}
checkpoint {
  every_steps: 0
  keep: 3
  best_metric: ""
  memory_every_steps: 0
}
eval {
  every_epochs: 1
  batch: 256
}
)");
}

TEST(EffectiveJob, WritesOnlyTheChosenCaseAndShortestFloats) {
  const JobSpec job = parse_job(
      "model { mlp { hidden: [128, 64] dropout: 0.1 } } optimizer { adam {} } "
      "data { preprocess { scale {} } preprocess { standardize { by: GIVEN mean: [1, 2.5] "
      "std: [1, 3] } } } train { clip_norm: 0.1 }",
      "job");
  const std::string text = effective_job(job);
  EXPECT_THAT(text, HasSubstr("hidden: [128, 64]"));
  EXPECT_THAT(text, HasSubstr("dropout: 0.1\n"));
  EXPECT_THAT(text, HasSubstr("  }\n  weights: \"\"\n"));
  EXPECT_THAT(text, HasSubstr("clip_norm: 0.1\n"));
  EXPECT_THAT(text, HasSubstr("epsilon: 1e-08\n"));
  EXPECT_THAT(text, HasSubstr("factor: 0.003921569\n"));
  EXPECT_THAT(text, HasSubstr("mean: [1, 2.5]"));
  EXPECT_THAT(text, Not(HasSubstr("cnn")));
  EXPECT_THAT(text, Not(HasSubstr("sgd")));
}

// Reading it back gives the same text and the same meaning.
void expect_round_trip(const JobSpec& job) {
  const std::string text = effective_job(job);
  const JobSpec back = parse_job(text, "effective job");
  EXPECT_EQ(effective_job(back), text);
  EXPECT_EQ(job_hash(back), job_hash(job));
  // What was set explicitly is in there unchanged.
  JobSpec merged = back;
  merged.clear_data();
  merged.clear_model();
  JobSpec given = job;
  given.clear_data();
  given.clear_model();
  JobSpec over = merged;
  over.MergeFrom(given);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(over, merged)) << text;
}

TEST(EffectiveJob, ReadsBackEqual) {
  expect_round_trip(JobSpec());
  std::mt19937_64 random(3);
  for (int i = 0; i < 200; ++i) {
    JobSpec job;
    std::string name;
    for (int k = 0; k < 12; ++k) name += static_cast<char>(random());
    job.set_name(name);
    const auto bits = random();
    double value = 0;
    std::memcpy(&value, &bits, sizeof value);
    job.mutable_train()->set_clip_norm(std::isfinite(value) ? value : 1);
    job.mutable_train()->set_seed(random());
    if (i % 3 == 0) job.mutable_schedule()->mutable_cosine()->set_last_factor(value);
    if (i % 3 == 1) job.mutable_schedule()->set_warmup_steps(5);
    const auto half = static_cast<std::uint32_t>(bits);
    float single = 0;
    std::memcpy(&single, &half, sizeof single);
    job.mutable_model()->mutable_mlp()->set_dropout(std::isfinite(single) ? single : 1);
    expect_round_trip(job);
    EXPECT_EQ(parse_job(effective_job(job), "").train().clip_norm(), job.train().clip_norm());
    EXPECT_EQ(parse_job(effective_job(job), "").name(), name);
    EXPECT_EQ(parse_job(effective_job(job), "").model().mlp().dropout(),
              job.model().mlp().dropout());
  }
}

std::uint64_t hash_with(std::initializer_list<const char*> assignments) {
  JobSpec job = parse_job("model { mlp { hidden: 4 } } optimizer { adam {} }", "job");
  for (const char* assignment : assignments) set_field(job, assignment);
  return job_hash(job);
}

TEST(JobHash, IgnoresWhatDoesNotDefineTheResult) {
  const std::uint64_t hash = hash_with({});
  for (const char* assignment : {"name=x",
                                 "run.directory=elsewhere",
                                 "run.log_every_steps=1",
                                 "run.tensorboard=false",
                                 "run.histograms_every_steps=9",
                                 "model.weights=x.safetensors",
                                 "train.algorithms=x",
                                 "train.algorithms_digest=",
                                 "data.prefetch_batches=9",
                                 "data.loader_threads=3",
                                 "parallel.threads=2",
                                 "parallel.deadline_seconds=1",
                                 "parallel.start_deadline_seconds=1",
                                 "parallel.bucket_size=1KiB",
                                 "parallel.overlap=false",
                                 "parallel.shard_optimizer=true",
                                 "checkpoint.keep=1",
                                 "checkpoint.every_steps=5",
                                 "checkpoint.best_metric=test_loss",
                                 "checkpoint.memory_every_steps=5",
                                 "eval.batch=3",
                                 "eval.every_epochs=0",
                                 "train.epochs=9",
                                 "train.max_steps=10",
                                 "schedule.constant={}",
                                 "train.seed=1"}) {
    EXPECT_EQ(hash_with({assignment}), hash) << assignment;
  }
}

TEST(JobHash, SeesWhatDoes) {
  const std::uint64_t hash = hash_with({});
  for (const char* assignment :
       {"model.mlp.hidden=[5]", "model.mlp.dropout=0.5", "model.cnn.filters=2",
        "optimizer.adam.beta1=0.8", "optimizer.sgd.momentum=0.5", "train.seed=2",
        "train.global_batch=128", "train.accumulate_steps=2", "train.clip_norm=1",
        "train.algorithms_digest=0123456789abcdef", "data.shuffle=false", "data.train.csv.path=x",
        "data.preprocess[0].scale.factor=2", "parallel.virtual_ranks=8", "parallel.reduction=FAST",
        "schedule.warmup_steps=3", "schedule.cosine={}"}) {
    EXPECT_NE(hash_with({assignment}), hash) << assignment;
  }
}

TEST(DefiningJob, HasEveryFieldThatMayDiffer) {
  const JobSpec with =
      parse_job("train { algorithms: 'a' algorithms_digest: '0123456789abcdef' }", "j");
  EXPECT_THAT(defining_job(with), HasSubstr("  algorithms_digest: \"0123456789abcdef\"\n"));
  EXPECT_THAT(defining_job(JobSpec()), HasSubstr("  algorithms_digest: \"\"\n"));
  EXPECT_THAT(defining_job(with), Not(HasSubstr("algorithms:")));
  EXPECT_THAT(defining_job(with), Not(HasSubstr("max_steps")));
}

// Of a job from before there were tables of products.
TEST(JobHash, StaysAsItWas) {
  const JobSpec job = parse_job("train { seed: 7 } parallel { virtual_ranks: 4 }", "job");
  EXPECT_EQ(job_hash(job), 0xf1603819daaf95dcu);
}

TEST(JobHash, IgnoresHowShardsCome) {
  const std::uint64_t hash =
      hash_with({"data.train.shards.url=http://a", "data.test.shards.url=x"});
  for (const char* assignment :
       {"data.train.shards.cache=/scratch", "data.train.shards.tries=9",
        "data.test.shards.cache_size=1GB", "data.test.shards.verify_cache=true"}) {
    EXPECT_EQ(hash_with({"data.train.shards.url=http://a", "data.test.shards.url=x", assignment}),
              hash)
        << assignment;
  }
  for (const char* assignment : {"data.train.shards.url=http://b", "data.test.shards.directory=x",
                                 "data.shuffle_window_shards=3"}) {
    EXPECT_NE(hash_with({"data.train.shards.url=http://a", "data.test.shards.url=x", assignment}),
              hash)
        << assignment;
  }
}

TEST(JobHash, BucketsCountWhereTheyChangeTheOrderOfSums) {
  for (const char* mode : {"parallel.reduction=FAST", "parallel.reduction=REPEATABLE"}) {
    EXPECT_NE(hash_with({mode}), hash_with({mode, "parallel.bucket_size=1KiB"})) << mode;
    EXPECT_NE(hash_with({mode}), hash_with({mode, "parallel.shard_optimizer=true"})) << mode;
  }
}

TEST(JobHash, LengthCountsWhereTheScheduleNeedsIt) {
  for (const char* schedule : {"schedule.cosine={}", "schedule.linear={}"}) {
    EXPECT_NE(hash_with({schedule}), hash_with({schedule, "train.epochs=9"})) << schedule;
    EXPECT_NE(hash_with({schedule}), hash_with({schedule, "train.max_steps=9"})) << schedule;
  }
  EXPECT_EQ(hash_with({"schedule.step={}"}), hash_with({"schedule.step={}", "train.epochs=9"}));
}

TEST(JobHelp, DescribesEveryKindOfField) {
  const std::string help = job_help();
  EXPECT_THAT(help,
              HasSubstr("train.global_batch\n  int32, default 64, range [1, inf)\n  records"));
  EXPECT_THAT(help, HasSubstr("parallel.reduction\n  enum, default RANK_INVARIANT, one of "
                              "RANK_INVARIANT, REPEATABLE, FAST\n"));
  EXPECT_THAT(help, HasSubstr("model.cnn\n  fields of CnnSpec, one choice of its group\n"));
  EXPECT_THAT(help, HasSubstr("model.mlp.hidden[]\n  list of int32, range [1, 1000000]\n"));
  EXPECT_THAT(help, HasSubstr("data.preprocess[].scale.factor\n  float, default 0.003921569\n"));
  EXPECT_THAT(help, HasSubstr("run.directory\n  text, default \"runs/peal\"\n"));
}

}  // namespace
}  // namespace peal
