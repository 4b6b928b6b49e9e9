// --set path=value.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/config/job.h"

namespace peal::set_test {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

JobSpec set(std::initializer_list<const char*> assignments) {
  JobSpec job;
  for (const char* assignment : assignments) set_field(job, assignment);
  return job;
}

// The refused assignment must leave the job as it was.
std::string set_error(const std::string& assignment, JobSpec job = JobSpec()) {
  const std::string before = job.SerializeAsString();
  try {
    set_field(job, assignment);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_EQ(job.SerializeAsString(), before) << assignment;
    return error.what();
  }
  return "no error";
}

TEST(Set, EveryType) {
  const JobSpec job =
      set({"train.epochs=3", "train.seed=18446744073709551615", " train.clip_norm = 1e-3 ",
           "run.tensorboard=false", "parallel.reduction=FAST", "run.directory=a b",
           "name=\"x\\ny\"", "model.mlp.dropout=0.25", "model.weights=a/b.safetensors"});
  EXPECT_EQ(job.train().epochs(), 3);
  EXPECT_EQ(job.train().seed(), UINT64_MAX);
  EXPECT_EQ(job.train().clip_norm(), 1e-3);
  EXPECT_FALSE(job.run().tensorboard());
  EXPECT_EQ(job.parallel().reduction(), ParallelSpec::FAST);
  EXPECT_EQ(job.run().directory(), "a b");
  EXPECT_EQ(job.name(), "x\ny");
  EXPECT_EQ(job.model().mlp().dropout(), 0.25f);
  EXPECT_EQ(job.model().weights(), "a/b.safetensors");
}

TEST(Set, TextMayHoldQuotesAndEqualsSigns) {
  EXPECT_EQ(set({"name=a=b"}).name(), "a=b");
  EXPECT_EQ(set({"name='single'"}).name(), "single");
  EXPECT_EQ(set({"name=say \"hi\""}).name(), "say \"hi\"");
  EXPECT_EQ(set({"name="}).name(), "");
  EXPECT_TRUE(set({"name="}).has_name());
}

TEST(Set, Lists) {
  EXPECT_THAT(set({"model.mlp.hidden=[128, 64]"}).model().mlp().hidden(), ElementsAre(128, 64));
  EXPECT_THAT(set({"model.mlp.hidden=[1,2]", "model.mlp.hidden=[3]"}).model().mlp().hidden(),
              ElementsAre(3));
  EXPECT_THAT(set({"model.mlp.hidden=[1,2]", "model.mlp.hidden=[]"}).model().mlp().hidden(),
              ElementsAre());
  EXPECT_THAT(set({"model.mlp.hidden=[1,2,3]", "model.mlp.hidden[1]=9", "model.mlp.hidden[3]=4"})
                  .model()
                  .mlp()
                  .hidden(),
              ElementsAre(1, 9, 3, 4));
}

TEST(Set, OneValueIsAListOfOne) {
  EXPECT_THAT(set({"model.mlp.hidden=[1,2]", "model.mlp.hidden=3"}).model().mlp().hidden(),
              ElementsAre(3));
  const auto paths = [](const char* assignment) {
    return set({assignment}).data().train().tokens().path();
  };
  EXPECT_THAT(paths("data.train.tokens.path=a/b.txt"), ElementsAre("a/b.txt"));
  EXPECT_THAT(paths("data.train.tokens.path=a, b.txt"), ElementsAre("a, b.txt"));
  EXPECT_THAT(paths("data.train.tokens.path='[a]'"), ElementsAre("[a]"));
  EXPECT_THAT(paths("data.train.tokens.path=[a, b.txt]"), ElementsAre("a", "b.txt"));
}

TEST(Set, GroupsInLists) {
  const JobSpec job =
      set({"data.preprocess[0].scale.factor=1", "data.preprocess[1].one_hot.classes=7",
           "data.preprocess[0].scale.offset=2"});
  ASSERT_EQ(job.data().preprocess_size(), 2);
  EXPECT_EQ(job.data().preprocess(0).scale().factor(), 1);
  EXPECT_EQ(job.data().preprocess(0).scale().offset(), 2);
  EXPECT_EQ(job.data().preprocess(1).one_hot().classes(), 7);
  EXPECT_EQ(
      set({"data.preprocess[0].scale.factor=1", "data.preprocess=[]"}).data().preprocess_size(), 0);
}

TEST(Set, APathThroughAChoiceSelectsIt) {
  const JobSpec job = set({"model.mlp.inputs=5", "model.cnn.filters=64"});
  EXPECT_TRUE(job.model().has_cnn());
  EXPECT_FALSE(job.model().has_mlp());
  EXPECT_EQ(job.model().cnn().filters(), 64);
  EXPECT_TRUE(
      set({"schedule.cosine.last_factor=0", "schedule.constant={}"}).schedule().has_constant());
  EXPECT_EQ(set({"model.mlp={ inputs: 3 hidden: 4 }"}).model().mlp().inputs(), 3);
}

struct Wrong {
  const char* assignment;
  const char* message;
};

class SetErrors : public ::testing::TestWithParam<Wrong> {};

TEST_P(SetErrors, NamePathAndWhatIsAllowed) {
  JobSpec job = set({"model.mlp.hidden=[1, 2]", "data.preprocess[0].scale.factor=1"});
  EXPECT_THAT(set_error(GetParam().assignment, job), StartsWith(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Job, SetErrors,
    ::testing::Values(
        Wrong{"train.epochs", "\"train.epochs\": write path=value"},
        Wrong{"=3", "\"=3\": write path=value"},
        Wrong{"train.epoch=3",
              "train.epoch: no such field; did you mean \"epochs\"? TrainSpec has"},
        Wrong{"train..epochs=3", "train.: no such field"},
        Wrong{"train.epochs=three",
              "train.epochs: wants a whole number (int32) in [1, inf), not \"three\""},
        Wrong{"train.epochs=3 4", "train.epochs: wants a whole number (int32)"},
        Wrong{"train.epochs=", "train.epochs: wants a whole number (int32)"},
        Wrong{"train.epochs=4294967296", "train.epochs: wants a whole number (int32)"},
        Wrong{"train.epochs=0",
              "train.epochs: 0 is not allowed; wants a whole number (int32) in [1, inf)"},
        Wrong{"train.clip_norm=nan",
              "train.clip_norm: nan is not allowed; wants a finite number in [0, inf)"},
        Wrong{"train.clip_norm=1e999", "train.clip_norm: inf is not allowed"},
        Wrong{"model.cnn.dropout=1",
              "model.cnn.dropout: 1 is not allowed; wants a finite number in [0, 1)"},
        Wrong{
            "model.mlp.hidden=[3, 0]",
            "model.mlp.hidden[1]: 0 is not allowed; wants a whole number (int32) in [1, 1000000]"},
        Wrong{"model.mlp.hidden=[3,]", "model.mlp.hidden[1]: wants a whole number"},
        Wrong{"model.mlp.hidden=3, 4", "model.mlp.hidden: wants a list such as [1, 2]"},
        Wrong{"model.mlp.hidden=[3", "model.mlp.hidden: wants a list such as [1, 2]"},
        Wrong{"model.mlp.hidden=", "model.mlp.hidden: wants a list such as [1, 2]"},
        Wrong{"model.mlp.hidden=three", "model.mlp.hidden: wants a whole number"},
        Wrong{"model.mlp.hidden=0", "model.mlp.hidden: 0 is not allowed"},
        Wrong{"data.train.tokens.path=[a", "data.train.tokens.path: wants a list such as [a, b]"},
        Wrong{"model.mlp.hidden[5]=3",
              "model.mlp.hidden[5]: the list has 2 elements; index 2 adds one"},
        Wrong{"model.mlp.hidden[x]=3", "model.mlp.hidden[x]: \"hidden[x]\" is no list element"},
        Wrong{"model.mlp.hidden[-1]=3", "model.mlp.hidden[-1]: \"hidden[-1]\" is no list element"},
        Wrong{"model.mlp.hidden[1=3", "model.mlp.hidden[1: \"hidden[1\" is no list element"},
        Wrong{"model.mlp.inputs[0]=3", "model.mlp.inputs[0]: is no list and takes no [index]"},
        Wrong{"data.preprocess.scale.factor=1", "data.preprocess: is a list; name an element"},
        Wrong{"data.preprocess=[1]", "data.preprocess: set elements one by one"},
        Wrong{"data.preprocess[2].scale.factor=1",
              "data.preprocess[2]: the list has 1 elements; index 1 adds one"},
        Wrong{"run.tensorboard=1", "run.tensorboard: wants true or false, not \"1\""},
        Wrong{"parallel.reduction=exact",
              "parallel.reduction: wants one of RANK_INVARIANT, REPEATABLE, FAST, not \"exact\""},
        Wrong{"parallel.reduction=2", "parallel.reduction: wants one of RANK_INVARIANT"},
        Wrong{"name=\"open", "name: wants text in quotes"},
        Wrong{"train=5", "train: is a group, not a value; set one of its fields"},
        Wrong{"model.mlp={ x: 1 }", "model.mlp: "},
        Wrong{"train.epochs.x=1", "train.epochs: is a value and has no fields"}));

}  // namespace
}  // namespace peal::set_test
