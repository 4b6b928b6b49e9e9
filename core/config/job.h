// Reading, overriding, validating and printing jobs. Needs core/config/job.pb.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/config/job.pb.h"

namespace peal {

// Parses a text-format file. Unknown fields, wrong types, duplicates and syntax errors throw
// Error(input) "file:line:column: ..." that names the field and, for an unknown one, the fields
// allowed there (nearest spelling first).
JobSpec load_job(const std::filesystem::path& file);
JobSpec parse_job(const std::string& text, const std::string& where);

// "train.global_batch=64", "model.mlp.hidden=[128, 64]", "data.preprocess[0].scale.factor=1".
// A value by itself is a list of one; an index one past the end of a list adds an element. A path
// through a oneof selects that case and drops the other: model.cnn.filters=64 turns an mlp job into
// a cnn job. "schedule.constant={}" replaces a group, as a job file would write it. Text needs no
// quotes. Throws Error(input) that names the path and what is allowed (fields, enum values, range);
// the job is then unchanged.
void set_field(JobSpec& job, const std::string& assignment);

// Ranges, required fields and everything that can be known before data is read:
// global_batch divisible by virtual_ranks * accumulate_steps, a model, a training source, ...
// Throws Error(input) "<where>: <path of the field>: ..."; where is the file, or "job".
// virtual_ranks must be resolved (> 0; Error(internal) when it is 0) and ranks <= virtual_ranks.
void validate_job(const JobSpec& job, int ranks, const std::string& where);

// Whether the loss has a scale that adapts (train.loss_scaling).
bool scales_loss(const TrainSpec& train);
// The part of it that concerns one source of records; `path` is its field.
void validate_source(const SourceSpec& source, const std::string& path, const std::string& where);

// Every field with its default written out, in the order of the schema. Of a oneof only the chosen
// case; a schedule nobody chose is constant. parse_job reads it back to the same effective job.
std::string effective_job(const JobSpec& job);
std::string effective_source(const SourceSpec& source);  // in the same way
// What defines the trained weights: the effective job without
// - name, run, checkpoint, eval,
// - model.weights, which a run that goes on does not read,
// - train.recompute and cuda_graphs,
// - train.algorithms, whose digest stays,
// - data.prefetch_batches, data.loader_threads, parallel.threads and the deadlines,
// - parallel.bucket_size and shard_optimizer where they cannot change a bit (RANK_INVARIANT),
// - train.epochs and train.max_steps where no learning rate depends on the length of the run (a
//   constant or step schedule), so that a finished run can be made longer.
std::string defining_job(const JobSpec& job);
// xxh64 of that, but for an algorithms_digest of nothing.
std::uint64_t job_hash(const JobSpec& job);

// Help for every field: path, type, default, range, sentence. From reflection.
std::string job_help();

}  // namespace peal
