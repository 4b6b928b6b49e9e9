// Writing checkpoints: a snapshot by the caller, the rest by one thread.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/device/buffer.h"
#include "core/state/checkpoint.h"
#include "core/state/manifest.h"
#include "core/state/safetensors.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

// Whatever begins like this is not finished, or is being deleted.
constexpr std::string_view kTemporary = ".tmp-";
constexpr const char* kBestLink = "best";

// Copies of tensors in memory of their own.
class Snapshot {
 public:
  explicit Snapshot(const std::vector<NamedTensor>& tensors) : sources_(tensors) {
    Arena arena;
    for (const NamedTensor& t : tensors) {
      check(t);
      arena.reserve(t.tensor.bytes());
    }
    memory_ = Buffer(arena.size());
    Arena again;
    for (const NamedTensor& t : tensors) {
      copies_.push_back(t);
      copies_.back().tensor.data = memory_.data() + again.reserve(t.tensor.bytes());
    }
  }

  void take() {
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      const Tensor& source = sources_[i].tensor;
      if (source.bytes() == 0 || source.data == nullptr) continue;
      std::memcpy(copies_[i].tensor.data, source.data, source.bytes());
    }
  }

  const std::vector<NamedTensor>& tensors() const { return copies_; }

 private:
  static void check(const NamedTensor& t) {
    if (t.tensor.layout != nullptr) fail_internal(t.name, "a checkpoint takes row-major tensors");
    if (!(t.tensor.device == kCpu)) fail_internal(t.name, "a checkpoint takes tensors on the CPU");
  }

  std::vector<NamedTensor> sources_, copies_;
  Buffer memory_;
};

[[noreturn]] void fail_errno(const fs::path& path, const char* action) {
  fail_input(path.string(), action, ": ", std::strerror(errno));
}

void rename_to(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail_errno(to, "cannot rename to");
}

// The folder is out of sight before its files go, so that nobody meets half of it.
void remove_folder(const fs::path& folder) {
  const fs::path hidden =
      folder.parent_path() / (std::string(kTemporary) + "old-" + folder.filename().string());
  std::error_code code;
  fs::remove_all(hidden, code);
  rename_to(folder, hidden);
  fs::remove_all(hidden, code);
  if (code) fail_input(hidden.string(), "cannot remove: ", code.message());
}

// Puts a finished folder in its place. Where one of an earlier run stands there, both are swapped
// in one step; file systems that cannot swap lose that step if the process dies in between.
void publish(const fs::path& temporary, const fs::path& folder) {
  std::error_code code;
  if (fs::exists(folder, code)) {
    const int swapped =
        ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE);
    if (swapped == 0) {
      sync_folder(folder.parent_path());
      fs::remove_all(temporary, code);
      return;
    }
    remove_folder(folder);
  }
  rename_to(temporary, folder);
  sync_folder(folder.parent_path());
}

void remove_leftovers(const fs::path& directory) {
  std::error_code code;
  std::vector<fs::path> found;
  for (fs::directory_iterator it(directory, code), end; !code && it != end; it.increment(code)) {
    if (it->path().filename().string().rfind(kTemporary, 0) == 0) found.push_back(it->path());
  }
  for (const fs::path& path : found) {
    fs::remove_all(path, code);
    if (code) fail_input(path.string(), "cannot remove what a killed run left: ", code.message());
  }
}

}  // namespace

struct CheckpointWriter::Impl {
  Impl(CheckpointOptions given, const std::vector<NamedTensor>& weight_tensors,
       const std::vector<NamedTensor>& optimizer_tensors,
       const std::vector<NamedTensor>& compression_tensors)
      : options(std::move(given)),
        weights(weight_tensors),
        optimizer(optimizer_tensors),
        compression(compression_tensors) {
    make_folders(options.directory);
    remove_leftovers(options.directory);
    read_best();
    thread = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    thread.join();
  }

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return busy || stopping; });
      if (!busy) return;
      lock.unlock();
      std::exception_ptr thrown;
      if (options.on_write) options.on_write(/*begins=*/true, info.step);
      try {
        write();
      } catch (...) {
        thrown = std::current_exception();
      }
      if (options.on_write) options.on_write(/*begins=*/false, info.step);
      lock.lock();
      error = thrown;
      busy = false;
      changed.notify_all();
    }
  }

  void wait_until_idle() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return !busy; });
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }

  void write() {
    const std::string name = state::folder_name(info.step);
    const fs::path temporary = options.directory / (std::string(kTemporary) + name);
    try {
      write_folder(temporary);
      publish(temporary, options.directory / name);
    } catch (...) {
      std::error_code ignored;
      fs::remove_all(temporary, ignored);
      throw;
    }
    mark_best(info.step, info.metrics);
    prune(info.step);
  }

  void write_folder(const fs::path& folder) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    make_folders(folder);
    state::Manifest manifest;
    manifest.info = info;
    manifest.weights_hash = hash_tensors(weights.tensors());
    manifest.files.push_back(write_tensors(folder, state::kWeightsFile, weights));
    manifest.files.push_back(write_tensors(folder, state::kOptimizerFile, optimizer));
    if (!compression.tensors().empty()) {
      manifest.files.push_back(write_tensors(folder, state::kCompressionFile, compression));
    }
    write_file_atomically(folder / state::kManifestFile, state::encode_manifest(manifest));
  }

  static state::FileEntry write_tensors(const fs::path& folder, const char* name,
                                        const Snapshot& snapshot) {
    const std::uint64_t hash = write_safetensors(folder / name, snapshot.tensors(), {});
    std::error_code code;
    const std::uint64_t bytes = fs::file_size(folder / name, code);
    if (code) fail_input((folder / name).string(), "cannot stat: ", code.message());
    return {name, bytes, hash};
  }

  // The best of earlier runs, so that a resumed job does not lose it.
  void read_best() {
    if (options.best_metric.empty()) return;
    std::error_code code;
    const fs::path target = fs::read_symlink(options.directory / kBestLink, code);
    for (const std::int64_t step : state::list_steps(options.directory)) {
      if (code || target != state::folder_name(step)) continue;
      try {
        const state::Manifest manifest = state::read_manifest(options.directory / target);
        const auto found = manifest.info.metrics.find(options.best_metric);
        if (found != manifest.info.metrics.end()) best_value = found->second;
        best_step = step;
      } catch (const Error& damaged) {
        log::warn(cat("the best checkpoint is passed over: ", damaged.what()));
      }
    }
  }

  bool is_better(double value) const {
    if (std::isnan(value)) return false;
    if (std::isnan(best_value)) return true;
    const std::string& name = options.best_metric;
    const bool smaller = name.ends_with("loss") || name.ends_with("perplexity");
    return smaller ? value < best_value : value > best_value;
  }

  void mark_best(std::int64_t step, const std::map<std::string, double>& metrics) {
    const auto found = metrics.find(options.best_metric);
    if (options.best_metric.empty() || found == metrics.end()) return;
    if (!is_better(found->second)) return;
    const fs::path temporary = options.directory / (std::string(kTemporary) + kBestLink);
    std::error_code code;
    fs::remove(temporary, code);
    fs::create_symlink(state::folder_name(step), temporary, code);
    if (code) fail_input(temporary.string(), "cannot create the link: ", code.message());
    rename_to(temporary, options.directory / kBestLink);
    sync_folder(options.directory);
    best_step = step;
    best_value = found->second;
  }

  // Keeps the newest `keep` up to `newest`. Folders of later steps are from before the run went
  // back to an earlier checkpoint: they do not count, and are replaced when their step comes.
  void prune(std::int64_t newest) {
    std::vector<std::int64_t> steps = state::list_steps(options.directory);
    std::erase_if(steps, [&](std::int64_t step) { return step > newest; });
    const std::size_t keep = static_cast<std::size_t>(std::max(1, options.keep));
    for (std::size_t i = 0; i + keep < steps.size(); ++i) {
      if (steps[i] != best_step) remove_folder(options.directory / state::folder_name(steps[i]));
    }
  }

  void add_metrics(std::int64_t step, const std::map<std::string, double>& metrics) {
    const fs::path folder = options.directory / state::folder_name(step);
    state::Manifest manifest = state::read_manifest(folder);
    for (const auto& [name, value] : metrics) manifest.info.metrics[name] = value;
    write_file_atomically(folder / state::kManifestFile, state::encode_manifest(manifest));
    mark_best(step, metrics);
  }

  CheckpointOptions options;
  Snapshot weights, optimizer, compression;
  CheckpointInfo info;  // of the snapshot
  std::int64_t best_step = -1;
  double best_value = std::numeric_limits<double>::quiet_NaN();

  std::mutex mutex;  // of what follows; the rest belongs to the thread while it is busy
  std::condition_variable changed;
  bool busy = false, stopping = false;
  std::exception_ptr error;
  std::thread thread;
};

CheckpointWriter::CheckpointWriter(CheckpointOptions options,
                                   const std::vector<NamedTensor>& weights,
                                   const std::vector<NamedTensor>& optimizer,
                                   const std::vector<NamedTensor>& compression)
    : impl_(std::make_unique<Impl>(std::move(options), weights, optimizer, compression)) {}

CheckpointWriter::~CheckpointWriter() {
  try {
    impl_->wait_until_idle();
  } catch (const std::exception& error) {
    log::error(cat("the last checkpoint was not written: ", error.what()));
  }
}

void CheckpointWriter::save(const CheckpointInfo& info) {
  impl_->wait_until_idle();
  impl_->info = info;
  impl_->weights.take();
  impl_->optimizer.take();
  impl_->compression.take();
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->busy = true;
  }
  impl_->changed.notify_all();
}

const std::vector<NamedTensor>& CheckpointWriter::optimizer_room() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [this] { return !impl_->busy; });
  return impl_->optimizer.tensors();
}

void CheckpointWriter::wait() {
  impl_->wait_until_idle();
}

void CheckpointWriter::report_metrics(std::int64_t step,
                                      const std::map<std::string, double>& metrics) {
  impl_->wait_until_idle();
  impl_->add_metrics(step, metrics);
}

}  // namespace peal
