// From the job's messages to the objects of the layers below.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "comm/buckets.h"
#include "core/config/job.pb.h"
#include "core/data/preprocess.h"
#include "core/data/record_source.h"
#include "core/data/tokenizer.h"
#include "core/graph/plan.h"
#include "core/kernels/kernels.h"
#include "core/optim/optimizer.h"
#include "core/state/checkpoint.h"
#include "models/model.h"

namespace peal {

// With what a source of tokens takes from the model: their number. Throws Error(input) at `path`,
// the source's field, where source and model do not fit.
SourceSpec source_for(const SourceSpec& spec, const ModelInfo& model, const std::string& path);
std::unique_ptr<Tokenizer> open_tokenizer(const TokensSpec& spec);
// To train on: idx, csv, shards, cifar, tokens. On this rank alone; what has to be fetched is
// fetched whole.
std::shared_ptr<Dataset> open_source(const SourceSpec& spec);
// To cut into shards: every kind. `limit` is left to the caller.
std::unique_ptr<RecordSource> open_record_source(const SourceSpec& spec);
bool skips_corrupt(const SourceSpec& spec);  // whether the job says so
std::vector<PreprocessStep> preprocess_steps(const DataSpec& spec);
// Whether one of them is made from all training records: statistics per feature are.
bool needs_training_records(const DataSpec& spec);
std::unique_ptr<Optimizer> make_optimizer(const OptimizerSpec& spec);
Schedule make_schedule(const ScheduleSpec& spec);
// Throws Error(input) when `device` has no such arithmetic.
Precision precision_of(const TrainSpec& spec, const Device& device);
// How the plan of a training pass is compiled, and how many records it has: those of one part of a
// virtual rank, whose number is resolved.
PlanOptions plan_options(const JobSpec& job, const Device& device);
std::int64_t records_of_pass(const JobSpec& job);
BucketOptions bucket_options(const ParallelSpec& spec);

// Weights that any program saved (core/state/weights_file.h), under the names of this model.
void load_weights(const ModelSpec& model, const std::filesystem::path& path,
                  const std::vector<NamedTensor>& into);

// The records fit the model: number of values, class labels in range, binary targets 0 or 1.
// Throws Error(input) that names the file, the field and what is allowed.
void check_data(const Dataset& dataset, const Preprocess& preprocess, const ModelInfo& model);

}  // namespace peal
