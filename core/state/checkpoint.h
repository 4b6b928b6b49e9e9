// Checkpoints: <run>/checkpoints/step-000001200/{weights.safetensors, optimizer.safetensors,
// compression.safetensors where gradient compression has state, manifest.pb}. The folder is written
// as .tmp-..., every file synced, the manifest last, then renamed: without a manifest there is no
// checkpoint. Every file carries a checksum, the manifest its own at its end.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/device/tensor.h"

namespace peal {

struct NamedTensor {
  std::string name;
  Tensor tensor;  // row-major
};

// xxh64 over (name, dtype, shape, bytes) of the tensors in the order of their names: what
// `peal inspect --hash` prints. Independent of arena offsets and of optimizer state. Lengths and
// dimensions go in as u64, little endian.
std::uint64_t hash_tensors(std::vector<NamedTensor> tensors);

struct CheckpointInfo {
  std::int64_t step = 0;
  std::int64_t epoch = 0;
  std::string job;  // effective job, text format
  std::uint64_t job_hash = 0;
  std::map<std::string, double> metrics;
};

struct CheckpointOptions {
  std::filesystem::path directory;  // <run>/checkpoints
  int keep = 3;
  // Empty: none. Larger is better unless the name ends in "loss" or "perplexity".
  std::string best_metric;
  // Told by the writer thread as it begins to write the checkpoint of `step` and when it has ended.
  std::function<void(bool begins, std::int64_t step)> on_write = {};
};

// One per job, on rank 0. save() copies the tensors (into buffers made at construction, so that a
// step allocates nothing) and returns; a thread writes. What lands is what save() saw. Tensors are
// row-major on the CPU and stay where they are; those of the optimizer may have no memory
// (optimizer_room). Equal tensors and info give equal bytes on disk.
// Checkpoints of steps after the one being saved are from before the run went back: they are
// neither counted nor removed, and replaced when their step is saved again.
class CheckpointWriter {
 public:
  // Makes the folder, removes what a killed run left (.tmp-*) and takes over its best; throws
  // Error(input) that names a folder that cannot be written.
  CheckpointWriter(CheckpointOptions options, const std::vector<NamedTensor>& weights,
                   const std::vector<NamedTensor>& optimizer,
                   const std::vector<NamedTensor>& compression = {});
  ~CheckpointWriter();  // waits; errors are logged

  // Waits first when the one before is still being written. Throws what the writer thread threw
  // before (a full disk names the file); the run's newest good checkpoint is never touched by a
  // failed write.
  void save(const CheckpointInfo& info);
  // The buffers of the optimizer's tensors, in their order, once the checkpoint before is written
  // or has failed (which save() throws): the caller fills those of tensors without memory before
  // each save().
  const std::vector<NamedTensor>& optimizer_room();
  void wait();  // until everything is on disk; throws what the writer threw

  // Adds metrics measured after `step` was saved (evaluation) and marks it best if it is:
  // <directory>/best is a symbolic link, replaced atomically, and its target is never pruned. NaN
  // is never best; of equals the first stays. Waits as save() does; throws Error(input) when that
  // step has no checkpoint.
  void report_metrics(std::int64_t step, const std::map<std::string, double>& metrics);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The name that a tensor saved by an earlier version has now; most kept theirs.
std::string current_name(const std::string& saved);

// Copies `from` into `into` by name; throws Error(input) at `where` that names the first tensor
// that is missing, left over or of another shape, and both models' shapes. Everything is compared
// before anything is copied; a target without memory is compared only.
void load_tensors(const std::string& where, const std::vector<NamedTensor>& from,
                  const std::vector<NamedTensor>& into);

// A checkpoint on disk, checked.
class Checkpoint {
 public:
  // `path`: a checkpoint's folder, or a run directory (its newest good checkpoint), or a
  // .safetensors file (weights only). Every checksum is compared; throws Error(input) that names
  // the damaged file.
  static Checkpoint open(const std::filesystem::path& path);
  // The newest undamaged checkpoint of <run>/checkpoints; damaged ones are reported through
  // `warn` by name and passed over. Nothing when there is none.
  static std::optional<Checkpoint> open_newest(const std::filesystem::path& run_directory,
                                               const std::function<void(const std::string&)>& warn);

  Checkpoint(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::filesystem::path& path() const;
  const CheckpointInfo& info() const;
  const std::vector<NamedTensor>& weights() const;  // views into mapped files
  const std::vector<NamedTensor>& optimizer() const;
  const std::vector<NamedTensor>& compression() const;  // often empty
  std::uint64_t weights_hash() const;

  // Copies into `into` by name; throws Error(input) that names the first tensor that is missing,
  // left over or of another shape, and both models' shapes.
  void load_weights(const std::vector<NamedTensor>& into) const;
  void load_optimizer(const std::vector<NamedTensor>& into) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
