// Validation: one broken job for each rule, and the message it must give.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/config/fields.h"
#include "core/config/job.h"

namespace peal::validate_test {
namespace {

using ::testing::StartsWith;

JobSpec good_job() {
  return parse_job(
      "data { train { idx { images: 'i' labels: 'l' } } } model { cnn {} } "
      "optimizer { sgd { learning_rate: 0.1 } } parallel { virtual_ranks: 8 }",
      "good");
}

std::string validation_error(const JobSpec& job, int ranks = 2) {
  try {
    validate_job(job, ranks, "job.textproto");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "no error";
}

TEST(Validate, AGoodJobPasses) {
  EXPECT_EQ(validation_error(good_job()), "no error");
  EXPECT_EQ(validation_error(good_job(), 8), "no error");
}

TEST(Validate, UnresolvedVirtualRanksAreTheCallersMistake) {
  JobSpec job = good_job();
  job.mutable_parallel()->clear_virtual_ranks();
  try {
    validate_job(job, 1, "job");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::internal);
  }
}

TEST(Validate, MoreRanksThanVirtualRanks) {
  EXPECT_THAT(validation_error(good_job(), 9),
              StartsWith("job.textproto: parallel.virtual_ranks: 9 ranks are more than 8 virtual"));
}

TEST(Validate, MissingGroupsNameTheChoices) {
  JobSpec job = good_job();
  job.clear_model();
  EXPECT_EQ(validation_error(job),
            "job.textproto: model: is missing; write one of cnn, mlp, resnet, gpt, rnn");
  job = good_job();
  job.mutable_optimizer()->Clear();
  EXPECT_EQ(validation_error(job),
            "job.textproto: optimizer: is missing; write one of sgd, adam, adamw, rmsprop");
  job = good_job();
  job.mutable_data()->clear_train();
  EXPECT_EQ(
      validation_error(job),
      "job.textproto: data.train: is missing; write one of idx, csv, shards, pictures, tar, text, "
      "cifar, tokens");
  job.mutable_data()->mutable_train()->set_limit(3);
  EXPECT_EQ(validation_error(job),
            "job.textproto: data.train: has no source; write one of idx, csv, shards, pictures, "
            "tar, text, cifar, tokens");
}

// Text that is merged over the good job, and the error.
struct Wrong {
  const char* text;
  const char* message;
};

class ValidateErrors : public ::testing::TestWithParam<Wrong> {};

TEST_P(ValidateErrors, NameFieldAndWhatIsAllowed) {
  JobSpec job = good_job();
  job.MergeFrom(parse_job(GetParam().text, "wrong"));
  EXPECT_THAT(validation_error(job),
              StartsWith(std::string("job.textproto: ") + GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Job, ValidateErrors,
    ::testing::Values(
        Wrong{"train { global_batch: 60 }",
              "train.global_batch: 60 is not a multiple of 8 (parallel.virtual_ranks 8 * "
              "train.accumulate_steps 1); nearest are 56 and 64"},
        Wrong{"train { global_batch: 5 }",
              "train.global_batch: 5 is not a multiple of 8 (parallel.virtual_ranks 8 * "
              "train.accumulate_steps 1); nearest is 8"},
        Wrong{"train { global_batch: 64 accumulate_steps: 3 }",
              "train.global_batch: 64 is not a multiple of 24 (parallel.virtual_ranks 8 * "
              "train.accumulate_steps 3); nearest are 48 and 72"},
        Wrong{"train { global_batch: 2147483647 }",
              "train.global_batch: 2147483647 is not a multiple of 8 (parallel.virtual_ranks 8 * "
              "train.accumulate_steps 1); nearest is 2147483640"},
        Wrong{"train { accumulate_steps: 65536 } parallel { virtual_ranks: 65536 }",
              "train.accumulate_steps: 65536 virtual ranks * 65536 parts are more"},
        Wrong{"train { global_batch: 0 }", "train.global_batch: 0 is not allowed; wants"},
        Wrong{"train { epochs: -1 }", "train.epochs: -1 is not allowed; wants"},
        Wrong{"optimizer { adam { beta1: 1 } }", "optimizer.adam.beta1: 1 is not allowed"},
        Wrong{"optimizer { adam { epsilon: nan } }", "optimizer.adam.epsilon: nan is not allowed"},
        Wrong{"data { preprocess { scale { factor: inf } } }",
              "data.preprocess[0].scale.factor: inf is not allowed; wants a finite number"},
        Wrong{"model { mlp { hidden: [3, 0] } }", "model.mlp.hidden[1]: 0 is not allowed"},
        Wrong{"optimizer { sgd { nesterov: true } }",
              "optimizer.sgd.nesterov: needs optimizer.sgd.momentum"},
        Wrong{"data { train { csv {} } }", "data.train.csv.path: is missing"},
        Wrong{"data { train { idx { images: '' } } }", "data.train.idx.images: is missing"},
        Wrong{"data { train { idx { labels: '' } } }", "data.train.idx.labels: is missing"},
        Wrong{"data { train { shards {} } }", "data.train.shards.directory: is missing"},
        Wrong{"data { train { pictures {} } }", "data.train.pictures.folder: is missing"},
        Wrong{"data { train { pictures { folder: 'x' picture { channels: 2 } } } }",
              "data.train.pictures.picture.channels: 2 is not allowed"},
        Wrong{"data { train { tar {} } }", "data.train.tar.path: is missing"},
        Wrong{"data { train { tar { path: 'x' label: '' } } }", "data.train.tar.label: is empty"},
        Wrong{"data { train { tar { path: 'x' picture { channels: 2 } } } }",
              "data.train.tar.picture.channels: 2 is not allowed"},
        Wrong{"data { train { text {} } }", "data.train.text.path: is missing"},
        Wrong{"data { train { text { path: 'x' length: 0 } } }", "data.train.text.length: 0"},
        Wrong{"data { train { text { path: 'x' by: PIECE label_first: true } } }",
              "data.train.text: label_first and cut_long_lines"},
        Wrong{"data { train { cifar {} } }", "data.train.cifar.path: is missing"},
        Wrong{"data { train { cifar { path: 'x' begin: 3 end: 3 } } }",
              "data.train.cifar.end: 3 is not behind begin, 3"},
        Wrong{"data { train { tokens {} } }", "data.train.tokens.path: is missing"},
        Wrong{"data { train { tokens { path: 'x' tokenizer: GPT2 merges: 'm' } } }",
              "data.train.tokens.encoder: is missing"},
        Wrong{"data { train { tokens { path: 'x' tokenizer: GPT2 encoder: 'e' } } }",
              "data.train.tokens.merges: is missing"},
        Wrong{"data { train { tokens { path: 'x' encoder: 'e' } } }",
              "data.train.tokens.encoder: is for tokenizer: GPT2 only"},
        Wrong{"data { test { tokens { path: 'x' begin: 0.5 end: 0.5 } } }",
              "data.test.tokens.begin: 0.5 is not before the end, 0.5"},
        Wrong{"data { test { tokens { path: 'x' begin: 1 } } }",
              "data.test.tokens.begin: 1 is not"},
        Wrong{"data { train { tokens { path: 'x' length: -1 } } }", "data.train.tokens.length: -1"},
        Wrong{"data { train { tokens { path: 'x' } } preprocess { scale {} } }",
              "data.preprocess: is not for tokens"},
        Wrong{"data { test {} }", "data.test: has no source"},
        Wrong{"data { test { csv { path: 'x' delimiter: '' } } }",
              "data.test.csv.delimiter: \"\" is not one character"},
        Wrong{"data { test { csv { path: 'x' delimiter: ', ' } } }", "data.test.csv.delimiter: "},
        Wrong{"data { test { csv { path: 'x' delimiter: '\"' } } }", "data.test.csv.delimiter: "},
        Wrong{"data { train { csv { path: 'x' label_column: '' } } }",
              "data.train.csv.label_column: is empty"},
        Wrong{"data { train { csv { path: 'x' header: false } } }",
              "data.train.csv.label_column: \"label\" is no number"},
        Wrong{"data { preprocess {} }",
              "data.preprocess[0]: says nothing; write one of scale, standardize, one_hot, "
              "random_crop, random_flip"},
        Wrong{"data { preprocess { one_hot {} } }",
              "data.preprocess[0].one_hot.classes: is missing"},
        Wrong{"data { preprocess { standardize { by: GIVEN } } }",
              "data.preprocess[0].standardize: by: GIVEN needs"},
        Wrong{"data { preprocess { standardize { by: GIVEN mean: [1, 2] std: 1 } } }",
              "data.preprocess[0].standardize: by: GIVEN needs as many numbers in mean as in std, "
              "one or one a channel; mean has 2, std has 1"},
        Wrong{"data { preprocess { standardize { by: GIVEN mean: 1 std: 0 } } }",
              "data.preprocess[0].standardize.std[0]: 0 is not greater than 0"},
        Wrong{"data { preprocess { standardize { mean: 1 std: 2 } } }",
              "data.preprocess[0].standardize: mean and std are for by: GIVEN only"},
        Wrong{"model { mlp { outputs: 2 } }",
              "model.mlp.outputs: 2 is not allowed; loss: BINARY needs exactly 1"},
        Wrong{"model { mlp { loss: SOFTMAX } }", "model.mlp.outputs: 1 is too small"},
        Wrong{"parallel { bucket_size: 'big' }", "parallel.bucket_size: \"big\" is no size"},
        Wrong{"parallel { bucket_size: '12.5QB' }", "parallel.bucket_size: \"12.5QB\" is no size"},
        Wrong{"parallel { bucket_size: '1e3' }", "parallel.bucket_size: \"1e3\" is no size"},
        Wrong{"parallel { bucket_size: '-1MB' }", "parallel.bucket_size: \"-1MB\" is no size"},
        Wrong{"parallel { bucket_size: '99999999999GiB' }",
              "parallel.bucket_size: \"99999999999GiB\" is more than 2^63 - 1 bytes"},
        Wrong{"parallel { bucket_size: '0' }", "parallel.bucket_size: 0 bytes"},
        Wrong{"parallel { compression {} }",
              "parallel.compression: says nothing; write one of f16, bf16, int8, power_sgd, or "
              "leave it out"},
        Wrong{"parallel { compression { f16 { scale: 1000 } } }",
              "parallel.compression.f16.scale: 1000 is no power of two"},
        Wrong{"parallel { compression { int8 {} } }",
              "parallel.compression.int8: rounds by rank, so that bits depend on the number of "
              "ranks, and parallel.reduction is RANK_INVARIANT; write parallel.reduction: "
              "REPEATABLE or FAST, or another of f16, bf16, power_sgd"},
        Wrong{"parallel { reduction: FAST compression { int8 { block: 10 } } }",
              "parallel.compression.int8.block: 10 is no multiple of 4"},
        Wrong{"parallel { compression { power_sgd { rank: 0 } } }",
              "parallel.compression.power_sgd.rank: 0 is not allowed; wants"},
        Wrong{"parallel { shard_optimizer: true compression { bf16 {} } }",
              "parallel.shard_optimizer: is not there with parallel.compression"},
        Wrong{"train { algorithms: 'table' }",
              "train.algorithms: is for parallel.device: CUDA; a CPU has one way for each product"},
        Wrong{"train { algorithms_digest: '0123456789abcdef' }",
              "train.algorithms_digest: is of the file in train.algorithms, which is missing"},
        Wrong{"train { algorithms: 't' algorithms_digest: '0123456789ABCDEF' } "
              "parallel { device: CUDA }",
              "train.algorithms_digest: \"0123456789ABCDEF\" is not 16 digits"},
        Wrong{"train { algorithms: 't' algorithms_digest: '012' } parallel { device: CUDA }",
              "train.algorithms_digest: \"012\" is not 16 digits"},
        Wrong{"parallel { deadline_seconds: 0 }",
              "parallel.deadline_seconds: 0 is not allowed; wants a finite number in (0, inf)"},
        Wrong{"run { directory: '' }", "run.directory: is empty"},
        Wrong{"checkpoint { keep: 0 }", "checkpoint.keep: 0 is not allowed"},
        Wrong{"checkpoint { best_metric: 'test_loss' }",
              "checkpoint.best_metric: \"test_loss\" needs data.test"}));

void for_each_field(const google::protobuf::Descriptor& message,
                    const std::function<void(const google::protobuf::FieldDescriptor&)>& visit) {
  for (int i = 0; i < message.field_count(); ++i) {
    visit(*message.field(i));
    if (message.field(i)->message_type()) for_each_field(*message.field(i)->message_type(), visit);
  }
}

TEST(Schema, EveryFieldHasHelpAndEveryRangeHoldsItsDefault) {
  for_each_field(*JobSpec::descriptor(), [](const google::protobuf::FieldDescriptor& field) {
    EXPECT_FALSE(field.options().GetExtension(help).empty()) << field.full_name();
    const config::Range range = config::range_of(field);  // throws when it cannot be read
    if (!config::is_number(field) || field.is_repeated()) return;
    if (field.full_name() == "peal.OneHotSpec.classes") return;  // must be given
    EXPECT_TRUE(range.contains(std::stod(config::default_text(field)))) << field.full_name();
  });
}

}  // namespace
}  // namespace peal::validate_test
