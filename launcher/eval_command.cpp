#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/config/job.h"
#include "core/state/checkpoint.h"
#include "launcher/cli.h"
#include "launcher/evaluation.h"
#include "launcher/job_setup.h"
#include "launcher/model_weights.h"
#include "launcher/open_records.h"
#include "launcher/train.h"

namespace peal {
namespace {

// The weights of a checkpoint under the model of a job, without anything of training.
class EvalModel {
 public:
  EvalModel(const JobSpec& job, const std::string& checkpoint_path,
            const std::shared_ptr<Dataset>& train, const std::shared_ptr<Dataset>& test) {
    const ModelInfo model = model_info(job.model());
    auto preprocess =
        std::make_shared<Preprocess>(preprocess_steps(job.data()), train ? *train : *test);
    check_data(*test, *preprocess, model);

    const Checkpoint checkpoint = Checkpoint::open(checkpoint_path);
    weights_ = std::make_unique<ModelWeights>(job.model(), checkpoint);
    step_ = checkpoint.info().step;
    evaluation_ = std::make_unique<Evaluation>(job.model(), weights_->table(), test, preprocess,
                                               job.eval().batch());
    weights_->bind(evaluation_->plan());
  }

  std::map<std::string, double> run(Communicator& comm) { return evaluation_->run(comm); }
  std::int64_t step() const { return step_; }

 private:
  std::unique_ptr<ModelWeights> weights_;
  std::unique_ptr<Evaluation> evaluation_;
  std::int64_t step_ = 0;
};

}  // namespace

void add_eval_command(CLI::App& app) {
  struct Arguments {
    std::string checkpoint;
    JobArguments job;
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("eval", "measure a checkpoint on the job's test records");
  command
      ->add_option("checkpoint", arguments->checkpoint,
                   "a checkpoint, a run directory (its newest one) or a safetensors file")
      ->required();
  add_job_arguments(*command, arguments->job);
  command->add_flag("--json", arguments->json, "print one JSON object");
  command->footer("Example:\n  peal eval runs/fashion_mnist examples/fashion_mnist_cnn.textproto");
  command->callback([arguments] {
    JobSpec job = read_job(arguments->job);
    with_ranks(arguments->job.local, [&](Communicator& comm) {
      if (job.parallel().virtual_ranks() == 0) {
        job.mutable_parallel()->set_virtual_ranks(comm.world_size());
      }
      const auto open = [&](const SourceSpec& given, const char* path) {
        SourceSpec spec;
        together(comm, [&] { spec = source_for(given, model_info(job.model()), path); });
        return open_records(spec, /*window_shards=*/0, job.train().seed(), comm, {});
      };
      if (job.data().test().kind_case() == SourceSpec::KIND_NOT_SET) {
        fail_input("data.test", "not given; eval needs test records");
      }
      const std::shared_ptr<Dataset> train =
          needs_training_records(job.data()) ? open(job.data().train(), "data.train") : nullptr;
      const std::shared_ptr<Dataset> test = open(job.data().test(), "data.test");
      std::unique_ptr<EvalModel> model;
      together(comm, [&] {
        model = std::make_unique<EvalModel>(job, arguments->checkpoint, train, test);
      });
      const std::map<std::string, double> metrics = model->run(comm);
      if (comm.rank() != 0) return;
      nlohmann::ordered_json line = {{"checkpoint", arguments->checkpoint},
                                     {"step", model->step()}};
      std::string text = cat(arguments->checkpoint, " step ", model->step(), ":");
      for (const auto& [name, value] : metrics) {
        line[name] = value;
        text += cat(" ", name, " ", value);
      }
      std::puts(arguments->json ? line.dump().c_str() : text.c_str());
    });
  });
}

}  // namespace peal
