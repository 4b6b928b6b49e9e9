// Reading, overriding, validating and printing jobs. Needs core/config/job.pb.h.
#pragma once

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

// "train.global_batch=64", "model.mlp.hidden=[128, 64]", "data.preprocess[0].scale.factor=1". A
// path through a oneof selects that case. Throws Error(input) that names the path and what is
// allowed (fields, enum values, range).
void set_field(JobSpec& job, const std::string& assignment);

// Ranges, required fields and everything that can be known before data is read:
// global_batch divisible by virtual_ranks * accumulate_steps, a model, a training source, ...
// virtual_ranks must be resolved (> 0) and ranks <= virtual_ranks.
void validate_job(const JobSpec& job, int ranks, const std::string& where);

// Every field with its default written out, in the order of the schema.
std::string effective_job(const JobSpec& job);
// xxh64 of what defines the result: data, model, optimizer, schedule, train, virtual ranks and
// reduction; not of names, directories, intervals, threads or deadlines.
std::uint64_t job_hash(const JobSpec& job);

// Help for every field: path, type, default, range, sentence. From reflection.
std::string job_help();

}  // namespace peal
