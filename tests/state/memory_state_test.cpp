#include "core/state/memory_state.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "core/base/checksum.h"
#include "tests/state/state_testing.h"

namespace peal {
namespace {

const MemoryStateInfo kInfo{.job = "name: \"test\"\n", .job_hash = 42};

class MemoryStates : public ::testing::Test {
 protected:
  MemoryStateWriter writer() const { return {path(), kInfo, model_.weights, model_.optimizer, {}}; }
  std::filesystem::path path() const { return folder_.path() / "state"; }
  std::optional<MemoryState> open() {
    warnings_.clear();
    return MemoryState::open(path(), [&](const std::string& text) { warnings_.push_back(text); });
  }
  // What the file holds is the model as it was after `step`.
  void expect(std::int64_t step) {
    const std::optional<MemoryState> state = open();
    ASSERT_TRUE(state);
    EXPECT_EQ(state->step(), step);
    SmallModel copy;
    load_tensors("state", state->weights(), copy.weights);
    load_tensors("state", state->optimizer(), copy.optimizer);
    EXPECT_TRUE(copy.holds(step));
  }
  void flip(std::size_t at) {
    std::string bytes = slurp(path());
    bytes[at] = static_cast<char>(bytes[at] ^ 4);
    spit(path(), bytes);
  }

  TemporaryFolder folder_;
  SmallModel model_;
  std::vector<std::string> warnings_;
};

TEST_F(MemoryStates, TheOptimizersTensorsMayBeElsewhere) {
  std::vector<NamedTensor> elsewhere = model_.optimizer;
  for (NamedTensor& t : elsewhere) t.tensor.data = nullptr;
  MemoryStateWriter writer(path(), kInfo, model_.weights, elsewhere, {});
  for (std::int64_t step = 1; step <= 3; ++step) {
    model_.fill(step);
    const std::vector<NamedTensor>& room = writer.optimizer_room();
    if (step > 1) expect(step - 1);  // the one before is whole
    for (std::size_t i = 0; i < room.size(); ++i) {
      std::memcpy(room[i].tensor.data, model_.optimizer[i].tensor.data, room[i].tensor.bytes());
    }
    writer.save(step, 0);
    model_.fill(1000);
    expect(step);
    model_.fill(step);
  }
}

TEST_F(MemoryStates, TheNewestIsFound) {
  EXPECT_FALSE(open());
  MemoryStateWriter writer = this->writer();
  EXPECT_FALSE(open());  // not before a state is whole
  for (std::int64_t step = 1; step <= 5; ++step) {
    model_.fill(step);
    writer.save(step, step / 2);
    writer.finished(step + 3, 7);
    model_.fill(1000);
    expect(step);
    EXPECT_EQ(open()->epoch(), step / 2);
    EXPECT_EQ(open()->finished(), step + 3);
    EXPECT_EQ(open()->every(), 7);
    EXPECT_EQ(open()->info().job, kInfo.job);
    EXPECT_EQ(open()->info().job_hash, kInfo.job_hash);
  }
  EXPECT_EQ(std::filesystem::file_size(path()),
            MemoryStateWriter::bytes(kInfo, model_.weights, model_.optimizer, {}));
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(MemoryStates, ADamagedOneIsNamedAndTheOtherTaken) {
  {
    MemoryStateWriter writer = this->writer();
    for (const std::int64_t step : {6, 7}) {
      model_.fill(step);
      writer.save(step, 0);
    }
  }
  const std::string whole = slurp(path());
  const std::size_t slot = (whole.size() - 2 * 4096) / 2;
  ASSERT_GT(slot, 0u);
  flip(2 * 4096 + slot + 100);  // step 7 lies in the second
  expect(6);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("step 7 is damaged"), std::string::npos) << warnings_[0];
  flip(2 * 4096 + 100);
  EXPECT_FALSE(open());
  EXPECT_EQ(warnings_.size(), 2u);
  for (const std::size_t at : {std::size_t{9}, std::size_t{4096 + 3}}) {  // head, index
    spit(path(), whole);
    flip(at);
    EXPECT_FALSE(open());
    EXPECT_EQ(warnings_.size(), 1u);
  }
  spit(path(), whole.substr(0, whole.size() - 1));
  EXPECT_FALSE(open());
}

TEST_F(MemoryStates, AKillAtAnyMomentLeavesAWholeState) {
  SmallModel big(20000);  // some milliseconds a copy
  for (int round = 0; round < 20; ++round) {
    std::filesystem::remove(path());
    const pid_t child = ::fork();
    if (child == 0) {
      MemoryStateWriter writer(path(), kInfo, big.weights, big.optimizer, {});
      for (std::int64_t step = 1;; ++step) {
        big.fill(step);
        writer.save(step, 0);
      }
    }
    while (!std::filesystem::exists(path())) ::usleep(1000);
    ::usleep(static_cast<useconds_t>(20000 + 7919 * round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const std::optional<MemoryState> state = open();
    ASSERT_TRUE(state);
    EXPECT_TRUE(warnings_.empty()) << warnings_[0];
    SmallModel copy(20000);
    load_tensors("state", state->weights(), copy.weights);
    load_tensors("state", state->optimizer(), copy.optimizer);
    EXPECT_TRUE(copy.holds(state->step()));
  }
}

TEST_F(MemoryStates, AnotherHostReadsTheTwoParts) {
  MemoryStateWriter writer = this->writer();
  for (const std::int64_t step : {3, 4}) {
    model_.fill(step);
    writer.save(step, 1);
  }
  const std::optional<MemoryState> here = open();
  std::vector<std::byte> front(here->front().begin(), here->front().end());
  std::vector<std::byte> payload(here->payload().begin(), here->payload().end());
  const std::optional<MemoryState> there = MemoryState::read(front, payload, "h2");
  ASSERT_TRUE(there);
  EXPECT_EQ(there->step(), 4);
  SmallModel copy;
  load_tensors("h2", there->weights(), copy.weights);
  EXPECT_EQ(hash_tensors(copy.weights), hash_tensors(model_.weights));
  payload[5] ^= std::byte{1};
  EXPECT_FALSE(MemoryState::read(front, payload, "h2"));
}

TEST_F(MemoryStates, NoRoomAndNoFolderAreErrors) {
  EXPECT_NE(input_error([&] {
              MemoryStateWriter writer(folder_.path() / "none/state", kInfo, model_.weights, {},
                                       {});
            }).find("none/state"),
            std::string::npos);
  // More than any /dev/shm holds; the tensor is never touched.
  std::vector<NamedTensor> huge = {{"huge", {nullptr, {std::int64_t{1} << 45}, DType::f32}}};
  const std::string said = input_error(
      [&] { MemoryStateWriter writer("/dev/shm/peal-test-huge", kInfo, huge, {}, {}); });
  EXPECT_NE(said.find("has no room for"), std::string::npos) << said;
  EXPECT_FALSE(std::filesystem::exists("/dev/shm/peal-test-huge.new"));
}

}  // namespace
}  // namespace peal
