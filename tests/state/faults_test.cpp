// Kills, full disks and folders that cannot be written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <random>
#include <thread>

#include "core/base/file.h"
#include "tests/state/state_testing.h"

namespace peal {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The child of the drill: saves step after step, going on from the newest checkpoint.
[[noreturn]] void save_forever(const fs::path& run) {
  try {
    SmallModel model(200);  // 150 kB, so that kills land inside of the writing too
    const auto newest = Checkpoint::open_newest(run, nullptr);
    std::int64_t step = newest ? newest->info().step : 0;
    CheckpointWriter writer({run / "checkpoints", 2, "test_loss"}, model.weights, model.optimizer);
    while (true) {
      ++step;
      model.fill(step);
      writer.save(info_at(step));
    }
  } catch (...) {
    _exit(1);
  }
}

TEST(Kill, AtAnyMomentLeavesACheckpointThatLoads) {
  TemporaryFolder run;
  std::mt19937 random(11);
  std::int64_t last_step = 0;
  // At least 30 kills, and as many more as a slow disk needs to get somewhere.
  for (int round = 0; round < 30 || (last_step < 30 && round < 400); ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_forever(run.path());
    usleep(3000 + random() % 60000);
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << status;

    std::vector<std::string> damaged;
    const auto newest = Checkpoint::open_newest(
        run.path(), [&](const std::string& text) { damaged.push_back(text); });
    EXPECT_THAT(damaged, ElementsAre()) << "round " << round;
    if (!newest) {
      ASSERT_EQ(last_step, 0) << "the checkpoints of earlier rounds are gone";
      continue;
    }
    EXPECT_GE(newest->info().step, last_step);
    last_step = newest->info().step;
    SmallModel model(200);
    newest->load_weights(model.weights);
    newest->load_optimizer(model.optimizer);
    EXPECT_TRUE(model.holds(last_step)) << "round " << round << " step " << last_step;
    EXPECT_EQ(newest->info().metrics, info_at(last_step).metrics);
  }
  EXPECT_GE(last_step, 30);
}

// A failed save keeps what is there, leaves nothing behind and is reported by name.
void expect_failed_save(const fs::path& directory, CheckpointWriter& writer) {
  writer.save(info_at(2));
  EXPECT_THAT(input_error([&] { writer.wait(); }),
              testing::AllOf(HasSubstr(".tmp-step-000000002/weights.safetensors"),
                             AnyOf(HasSubstr("File too large"), HasSubstr("No space left"))));
  EXPECT_THAT(entries(directory), ElementsAre("step-000000001"));
  writer.save(info_at(2));
  EXPECT_THAT(input_error([&] { writer.save(info_at(3)); }), HasSubstr("weights.safetensors"));
  EXPECT_THAT(entries(directory), ElementsAre("step-000000001"));
  EXPECT_EQ(Checkpoint::open(directory.parent_path()).info().step, 1);
}

// Sets the largest file that may be written; SIGXFSZ would otherwise end the process.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limited = before_;
    limited.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST(FullDisk, AFileLimitIsReportedAndKeepsTheOldCheckpoint) {
  TemporaryFolder run;
  const fs::path directory = run.path() / "checkpoints";
  SmallModel model(200);
  CheckpointWriter writer({directory, 3, ""}, model.weights, model.optimizer);
  writer.save(info_at(1));
  writer.wait();
  {
    const FileLimit limit(20000);
    expect_failed_save(directory, writer);
  }
  writer.save(info_at(4));  // room again
  writer.wait();
  EXPECT_EQ(Checkpoint::open(run.path()).info().step, 4);
}

// A file system of 256 KiB where this process may mount one; elsewhere the limit above stands in.
class SmallDisk {
 public:
  SmallDisk() {
    fs::create_directories(path());
    mounted_ = ::mount("tmpfs", path().c_str(), "tmpfs", 0, "size=256k") == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(path().c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  fs::path path() const { return folder_.path() / "disk"; }

 private:
  TemporaryFolder folder_;
  bool mounted_ = false;
};

TEST(FullDisk, ARealFullDiskIsReportedAndKeepsTheOldCheckpoint) {
  const SmallDisk disk;
  const fs::path directory = disk.path() / "checkpoints";
  SmallModel model(200);  // 150 kB: fits once
  CheckpointWriter writer({directory, 3, ""}, model.weights, model.optimizer);
  writer.save(info_at(1));
  writer.wait();
  if (disk.mounted()) {
    expect_failed_save(directory, writer);
  } else {
    const FileLimit limit(20000);
    expect_failed_save(directory, writer);
  }
}

TEST(Unwritable, AFolderThatCannotBeMadeIsNamed) {
  TemporaryFolder run;
  spit(run.path() / "file", "not a folder");
  const fs::path directory = run.path() / "file" / "checkpoints";
  SmallModel model;
  EXPECT_THAT(input_error([&] {
                CheckpointWriter({directory, 3, ""}, model.weights, model.optimizer);
              }),
              HasSubstr(directory.string()));
}

TEST(Unwritable, AFolderThatVanishesIsNamedAtTheNextSave) {
  TemporaryFolder run;
  const fs::path directory = run.path() / "checkpoints";
  SmallModel model;
  CheckpointWriter writer({directory, 3, ""}, model.weights, model.optimizer);
  fs::remove_all(directory);
  spit(directory, "in the way");
  writer.save(info_at(1));
  EXPECT_THAT(input_error([&] { writer.wait(); }), HasSubstr(directory.string()));
}

TEST(Destructor, LogsWhatCouldNotBeWritten) {
  TemporaryFolder run;
  const fs::path directory = run.path() / "checkpoints";
  SmallModel model;
  testing::internal::CaptureStderr();
  {
    CheckpointWriter writer({directory, 3, ""}, model.weights, model.optimizer);
    fs::remove_all(directory);
    spit(directory, "in the way");
    writer.save(info_at(1));
  }
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr(directory.string()));
}

}  // namespace
}  // namespace peal
