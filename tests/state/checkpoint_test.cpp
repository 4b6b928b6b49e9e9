// Checkpoints: what lands is what was saved, and damage is found, named and passed over.
#include "core/state/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/state/state_testing.h"

namespace peal {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointOptions options(int keep = 3, const std::string& best = "") const {
    return {directory_, keep, best};
  }
  void save_steps(std::initializer_list<std::int64_t> steps, int keep = 100) {
    CheckpointWriter writer(options(keep), model_.weights, model_.optimizer);
    for (const std::int64_t step : steps) {
      model_.fill(step);
      writer.save(info_at(step));
    }
    writer.wait();
  }
  fs::path folder(std::int64_t step) const {
    char name[32];
    std::snprintf(name, sizeof name, "step-%09lld", static_cast<long long>(step));
    return directory_ / name;
  }

  TemporaryFolder run_;
  fs::path directory_ = run_.path() / "checkpoints";
  SmallModel model_;
};

// Tensors without memory are filled where the writer has them; others are copied.
TEST_F(CheckpointTest, TheOptimizersTensorsMayBeElsewhere) {
  std::vector<NamedTensor> elsewhere = model_.optimizer;
  for (NamedTensor& t : elsewhere) t.tensor.data = nullptr;
  CheckpointWriter writer(options(), model_.weights, elsewhere);
  for (const std::int64_t step : {1, 2}) {
    model_.fill(step);
    const std::vector<NamedTensor>& room = writer.optimizer_room();
    ASSERT_EQ(room.size(), model_.optimizer.size());
    for (std::size_t i = 0; i < room.size(); ++i) {
      EXPECT_EQ(room[i].name, model_.optimizer[i].name);
      std::memcpy(room[i].tensor.data, model_.optimizer[i].tensor.data, room[i].tensor.bytes());
    }
    writer.save(info_at(step));
  }
  writer.wait();
  for (const std::int64_t step : {1, 2}) {
    const Checkpoint checkpoint = Checkpoint::open(folder(step));
    SmallModel other;
    checkpoint.load_weights(other.weights);
    checkpoint.load_optimizer(elsewhere);  // compares names and shapes
    checkpoint.load_optimizer(other.optimizer);
    EXPECT_TRUE(other.holds(step));
    elsewhere.back().tensor.shape = {999};
    EXPECT_ANY_THROW(checkpoint.load_optimizer(elsewhere));
    elsewhere.back().tensor.shape = model_.optimizer.back().tensor.shape;
  }
}

TEST_F(CheckpointTest, ComesBackAsItWas) {
  save_steps({7});
  EXPECT_THAT(entries(folder(7)),
              ElementsAre("manifest.pb", "optimizer.safetensors", "weights.safetensors"));
  for (const fs::path& path : {folder(7), run_.path()}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    EXPECT_EQ(checkpoint.path(), folder(7));
    EXPECT_EQ(checkpoint.info().step, 7);
    EXPECT_EQ(checkpoint.info().epoch, 0);
    EXPECT_EQ(checkpoint.info().job, "name: \"test\"\n");
    EXPECT_EQ(checkpoint.info().job_hash, 42u);
    EXPECT_EQ(checkpoint.info().metrics, info_at(7).metrics);
    EXPECT_EQ(checkpoint.weights_hash(), hash_tensors(model_.weights));
    SmallModel other;
    checkpoint.load_weights(other.weights);
    checkpoint.load_optimizer(other.optimizer);
    EXPECT_TRUE(other.holds(7));
  }
  const Checkpoint file = Checkpoint::open(folder(7) / "weights.safetensors");
  EXPECT_EQ(file.weights_hash(), hash_tensors(model_.weights));
  EXPECT_TRUE(file.optimizer().empty());
}

TEST_F(CheckpointTest, KeepsTheStateOfCompressionInAFileOfItsOwn) {
  std::vector<float> error{1, 2, 3};
  const std::vector<NamedTensor> state{{"error.0/w", {.data = error.data(), .shape = {3}}}};
  {
    CheckpointWriter writer(options(), model_.weights, model_.optimizer, state);
    writer.save(info_at(1));
  }
  EXPECT_THAT(entries(folder(1)), ElementsAre("compression.safetensors", "manifest.pb",
                                              "optimizer.safetensors", "weights.safetensors"));
  {
    const Checkpoint checkpoint = Checkpoint::open(run_.path());
    ASSERT_EQ(checkpoint.compression().size(), 1u);
    EXPECT_EQ(checkpoint.compression()[0].name, "error.0/w");
    EXPECT_EQ(std::memcmp(checkpoint.compression()[0].tensor.data, error.data(), 12), 0);
    EXPECT_EQ(checkpoint.weights_hash(), hash_tensors(model_.weights));
  }
  save_steps({2});
  EXPECT_TRUE(Checkpoint::open(folder(2)).compression().empty());
  // It is checked as the others are.
  const fs::path file = folder(1) / "compression.safetensors";
  fs::resize_file(file, fs::file_size(file) - 1);
  try {
    Checkpoint::open(folder(1));
    FAIL();
  } catch (const Error& damaged) {
    EXPECT_THAT(damaged.what(), AllOf(HasSubstr(file.string()), HasSubstr("is damaged")));
  }
}

TEST_F(CheckpointTest, HoldsWhatSaveSawAlthoughTrainingGoesOn) {
  SmallModel big(20000);  // 15 MB
  CheckpointWriter writer(options(), big.weights, big.optimizer);
  big.fill(1);
  writer.save(info_at(1));
  big.fill(2);
  writer.wait();
  SmallModel other(20000);
  const Checkpoint checkpoint = Checkpoint::open(run_.path());
  checkpoint.load_weights(other.weights);
  checkpoint.load_optimizer(other.optimizer);
  EXPECT_TRUE(other.holds(1));
}

TEST_F(CheckpointTest, EqualStatesGiveEqualBytes) {
  CheckpointInfo info = info_at(5);
  for (const char* name : {"train_loss", "test_accuracy", "a", "b", "c", "d", "e"}) {
    info.metrics[name] = 0.5;
  }
  model_.fill(5);
  TemporaryFolder other_run;
  CheckpointWriter(options(), model_.weights, model_.optimizer).save(info);
  CheckpointWriter({other_run.path(), 1, "a"}, model_.weights, model_.optimizer).save(info);
  for (const char* name : {"manifest.pb", "optimizer.safetensors", "weights.safetensors"}) {
    EXPECT_EQ(slurp(folder(5) / name), slurp(other_run.path() / "step-000000005" / name)) << name;
  }
}

TEST_F(CheckpointTest, KeepsTheLastOnes) {
  save_steps({10, 20, 30, 40, 50}, 2);
  EXPECT_THAT(entries(directory_), ElementsAre("step-000000040", "step-000000050"));
}

TEST_F(CheckpointTest, NeverPrunesTheBest) {
  {
    CheckpointWriter writer(options(1, "test_accuracy"), model_.weights, model_.optimizer);
    const double accuracy[] = {0.5, 0.9, 0.9, 0.7, std::nan("")};
    for (std::int64_t step = 1; step <= 5; ++step) {
      model_.fill(step);
      writer.save(info_at(step));
      writer.report_metrics(step, {{"test_accuracy", accuracy[step - 1]}});
    }
  }
  EXPECT_THAT(entries(directory_), ElementsAre("best", "step-000000002", "step-000000005"));
  EXPECT_EQ(fs::read_symlink(directory_ / "best"), "step-000000002");
  EXPECT_EQ(Checkpoint::open(directory_ / "best").info().metrics.at("test_accuracy"), 0.9);
  EXPECT_EQ(Checkpoint::open(directory_ / "best").info().metrics.at("test_loss"), 1.0 / 3);
  // A resumed run knows the best of the run before.
  CheckpointWriter writer(options(1, "test_accuracy"), model_.weights, model_.optimizer);
  CheckpointInfo info = info_at(6);
  info.metrics["test_accuracy"] = 0.8;
  writer.save(info);
  writer.wait();
  EXPECT_THAT(entries(directory_), ElementsAre("best", "step-000000002", "step-000000006"));
  info.step = 7;
  info.metrics["test_accuracy"] = 0.95;
  writer.save(info);
  info.step = 8;
  info.metrics.clear();
  writer.save(info);
  writer.wait();
  EXPECT_THAT(entries(directory_), ElementsAre("best", "step-000000007", "step-000000008"));
}

TEST_F(CheckpointTest, OfALossTheSmallestIsBest) {
  CheckpointWriter writer(options(1, "test_loss"), model_.weights, model_.optimizer);
  const double loss[] = {0.5, 0.2, 0.4};
  for (std::int64_t step = 1; step <= 3; ++step) {
    CheckpointInfo info = info_at(step);
    info.metrics["test_loss"] = loss[step - 1];
    writer.save(info);
  }
  writer.wait();
  EXPECT_EQ(fs::read_symlink(directory_ / "best"), "step-000000002");
}

TEST_F(CheckpointTest, SavingAStepAgainReplacesItWhole) {
  save_steps({10, 20, 30});
  model_.fill(99);
  CheckpointWriter writer(options(1), model_.weights, model_.optimizer);
  writer.save(info_at(20));  // the run went back to 10; 30 is from before
  writer.wait();
  EXPECT_THAT(entries(directory_), ElementsAre("step-000000020", "step-000000030"));
  SmallModel other;
  Checkpoint::open(folder(20)).load_weights(other.weights);
  Checkpoint::open(folder(20)).load_optimizer(other.optimizer);
  EXPECT_TRUE(other.holds(99));
}

TEST_F(CheckpointTest, LeftoversOfAKilledRunAreRemoved) {
  fs::create_directories(directory_ / ".tmp-step-000000003");
  spit(directory_ / ".tmp-step-000000003" / "weights.safetensors", "half");
  save_steps({4});
  EXPECT_THAT(entries(directory_), ElementsAre("step-000000004"));
}

TEST_F(CheckpointTest, ReportingForAStepThatWasNeverSavedIsAnError) {
  CheckpointWriter writer(options(), model_.weights, model_.optimizer);
  EXPECT_THAT(input_error([&] {
                writer.report_metrics(3, {{"test_loss", 1}});
              }),
              HasSubstr("step-000000003/manifest.pb"));
}

// One damaged byte in `name` of the newest checkpoint must be named, and the one before taken.
void expect_fallback(const fs::path& run, const fs::path& file, const std::string& what) {
  std::vector<std::string> warnings;
  const auto newest =
      Checkpoint::open_newest(run, [&](const std::string& text) { warnings.push_back(text); });
  ASSERT_TRUE(newest.has_value()) << what;
  EXPECT_EQ(newest->info().step, 1) << what;
  ASSERT_EQ(warnings.size(), 1u) << what;
  EXPECT_THAT(warnings[0], HasSubstr(file.string())) << what;
  EXPECT_THAT(input_error([&] { Checkpoint::open(file.parent_path()); }),
              StartsWith(file.string() + ": "))
      << what;
}

class Damage : public CheckpointTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(Damage, EveryFlippedByteIsFound) {
  save_steps({1, 2});
  const fs::path file = folder(2) / GetParam();
  const std::string good = slurp(file);
  const int bits[] = {0, 3, 7};
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << bits[i % 3]));
    spit(file, bad);
    expect_fallback(run_.path(), file, "byte " + std::to_string(i));
    if (HasFatalFailure()) return;
  }
  spit(file, good);
  EXPECT_EQ(Checkpoint::open(run_.path()).info().step, 2);
}

TEST_P(Damage, EveryTruncationIsFound) {
  save_steps({1, 2});
  const fs::path file = folder(2) / GetParam();
  const std::string good = slurp(file);
  for (std::size_t n = 0; n < good.size(); ++n) {
    spit(file, good.substr(0, n));
    expect_fallback(run_.path(), file, "length " + std::to_string(n));
    if (HasFatalFailure()) return;
  }
  spit(file, good + '\0');
  expect_fallback(run_.path(), file, "one byte more");
  fs::remove(file);
  expect_fallback(run_.path(), file, "removed");
}

INSTANTIATE_TEST_SUITE_P(Files, Damage,
                         ::testing::Values("manifest.pb", "weights.safetensors",
                                           "optimizer.safetensors"));

TEST_F(CheckpointTest, SampledBytesOfALargeFileAreFound) {
  SmallModel big(3000);
  {
    CheckpointWriter writer(options(), big.weights, big.optimizer);
    writer.save(info_at(1));
    writer.save(info_at(2));
  }
  const fs::path file = folder(2) / "weights.safetensors";
  const std::string good = slurp(file);
  ASSERT_GT(good.size(), 1000000u);
  for (std::size_t i = 0; i < good.size(); i += good.size() / 37) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    spit(file, bad);
    expect_fallback(run_.path(), file, "byte " + std::to_string(i));
  }
}

TEST_F(CheckpointTest, WithoutAnyGoodOneThereIsNone) {
  EXPECT_FALSE(Checkpoint::open_newest(run_.path(), nullptr).has_value());
  EXPECT_THAT(input_error([&] { Checkpoint::open(run_.path()); }),
              HasSubstr("holds no finished checkpoint"));
  EXPECT_THAT(input_error([&] { Checkpoint::open(run_.path() / "nowhere"); }),
              HasSubstr("nowhere: does not exist"));
  save_steps({1});
  spit(folder(1) / "manifest.pb", "");
  EXPECT_FALSE(Checkpoint::open_newest(run_.path(), nullptr).has_value());
  EXPECT_THAT(input_error([&] { Checkpoint::open(run_.path()); }),
              AllOf(HasSubstr("every checkpoint is damaged"), HasSubstr("manifest.pb")));
}

TEST_F(CheckpointTest, AnotherModelIsRefusedBeforeAnythingIsCopied) {
  save_steps({1});
  const Checkpoint checkpoint = Checkpoint::open(run_.path());
  const std::string file = (folder(1) / "weights.safetensors").string();
  SmallModel wide(2);
  EXPECT_THAT(input_error([&] { checkpoint.load_weights(wide.weights); }),
              StartsWith(file + ": tensor \"dense.weight\" is f32 (8, 8) in the file and f32 (16, "
                                "8) in the model. The file holds dense.weight f32 (8, 8), "
                                "dense.bias f32 (64). The model has dense.weight f32 (16, 8), "
                                "dense.bias f32 (128)."));
  SmallModel other;
  other.weights[1].name = "dense.b";
  EXPECT_THAT(input_error([&] { checkpoint.load_weights(other.weights); }),
              StartsWith(file + ": has no tensor \"dense.b\". The file holds"));
  other.weights.pop_back();
  EXPECT_THAT(input_error([&] { checkpoint.load_weights(other.weights); }),
              StartsWith(file + ": tensor \"dense.bias\" is not in the model"));
  EXPECT_EQ(other.weights[0].tensor.as<float>()[1], 0) << "nothing may be copied";
  EXPECT_THAT(input_error([&] { checkpoint.load_optimizer({}); }),
              StartsWith((folder(1) / "optimizer.safetensors").string() +
                         ": tensor \"adam.m\" is not in the model"));
}

// Batch norm's running_var was running_variance once.
TEST_F(CheckpointTest, ANameOfAnEarlierVersionIsKnown) {
  float saved[2] = {3, 4}, mean[2] = {}, variance[2] = {};
  const NamedTensor old = {"norm.running_variance", {saved, {2}, DType::f32}};
  const std::vector<NamedTensor> now = {{"norm.running_mean", {mean, {2}, DType::f32}},
                                        {"norm.running_var", {variance, {2}, DType::f32}}};
  load_tensors("old", {old, {"norm.running_mean", {saved, {2}, DType::f32}}}, now);
  EXPECT_EQ(variance[1], 4);
  EXPECT_EQ(mean[0], 3);
  EXPECT_THAT(input_error([&] { load_tensors("old", {old}, now); }),
              StartsWith("old: has no tensor \"norm.running_mean\""));
  EXPECT_THAT(input_error([&] { load_tensors("old", {old}, {now[0]}); }),
              StartsWith("old: has no tensor \"norm.running_mean\""));
}

}  // namespace
}  // namespace peal
