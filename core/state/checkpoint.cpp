// Reading checkpoints; writer.cpp writes them.
#include "core/state/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/state/manifest.h"
#include "core/state/safetensors.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

void hash_number(Hasher& hasher, std::uint64_t value) {
  hasher.update(&value, sizeof value);
}

// Maps a file of a checkpoint once its size and checksum are those of the manifest.
MappedFile map_checked(const fs::path& path, const state::FileEntry& entry) {
  MappedFile file(path);
  if (file.size() != entry.bytes) {
    fail_input(path.string(), "is damaged: it has ", file.size(), " bytes, not ", entry.bytes);
  }
  const std::uint64_t actual = xxh64(file.data(), file.size());
  if (actual != entry.xxh64) {
    fail_input(path.string(), "is damaged: its checksum is ", hex(actual), ", not ",
               hex(entry.xxh64));
  }
  return file;
}

const NamedTensor* find(const std::vector<NamedTensor>& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor& t) {
    return current_name(t.name) == name;
  });
  return found == tensors.end() ? nullptr : &*found;
}

std::string describe(const Tensor& tensor) {
  return cat(name_of(tensor.dtype), " ", tensor.shape);
}

// "a f32 (2, 3), b f32 (3)"
std::string list_tensors(const std::vector<NamedTensor>& tensors) {
  constexpr std::size_t kMost = 24;
  std::vector<std::string> parts;
  for (const NamedTensor& t : tensors) {
    if (parts.size() == kMost) break;
    parts.push_back(t.name + " " + describe(t.tensor));
  }
  if (parts.empty()) return "nothing";
  const std::size_t left = tensors.size() - parts.size();
  return join(parts) + (left > 0 ? cat(" and ", left, " more") : "");
}

}  // namespace

std::string current_name(const std::string& saved) {
  constexpr std::string_view kOld = ".running_variance", kNew = ".running_var";  // PyTorch's name
  if (!saved.ends_with(kOld)) return saved;
  return cat(saved.substr(0, saved.size() - kOld.size()), kNew);
}

void load_tensors(const std::string& where, const std::vector<NamedTensor>& from,
                  const std::vector<NamedTensor>& into) {
  const auto fail = [&](const std::string& what) {
    fail_input(where, what, ". The file holds ", list_tensors(from), ". The model has ",
               list_tensors(into), ".");
  };
  for (const NamedTensor& target : into) {
    const NamedTensor* source = find(from, target.name);
    if (source == nullptr) fail(cat("has no tensor \"", target.name, "\""));
    if (source->tensor.shape != target.tensor.shape ||
        source->tensor.dtype != target.tensor.dtype) {
      fail(cat("tensor \"", target.name, "\" is ", describe(source->tensor), " in the file and ",
               describe(target.tensor), " in the model"));
    }
  }
  for (const NamedTensor& source : from) {
    if (find(into, current_name(source.name)) == nullptr) {
      fail(cat("tensor \"", source.name, "\" is not in the model"));
    }
  }
  for (const NamedTensor& target : into) {
    const std::size_t bytes = target.tensor.bytes();
    if (bytes == 0 || target.tensor.data == nullptr) continue;
    std::memcpy(target.tensor.data, find(from, target.name)->tensor.data, bytes);
  }
}

std::uint64_t hash_tensors(std::vector<NamedTensor> tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const NamedTensor& a, const NamedTensor& b) { return a.name < b.name; });
  Hasher hasher;
  for (const NamedTensor& named : tensors) {
    // Lengths go in too, so that no two lists of tensors give the same stream of bytes.
    hash_number(hasher, named.name.size());
    hasher.update(named.name);
    hasher.update(safetensors_name(named.tensor.dtype));
    hash_number(hasher, static_cast<std::uint64_t>(named.tensor.shape.rank()));
    for (const std::int64_t dim : named.tensor.shape) {
      hash_number(hasher, static_cast<std::uint64_t>(dim));
    }
    hasher.update(named.tensor.data, named.tensor.bytes());
  }
  return hasher.digest();
}

struct Checkpoint::Impl {
  fs::path path;
  CheckpointInfo info;
  std::uint64_t weights_hash = 0;
  std::vector<MappedFile> files;
  std::vector<NamedTensor> weights, optimizer, compression;
  std::string weights_file, optimizer_file;

  static std::unique_ptr<Impl> from_file(const fs::path& path) {
    auto impl = std::make_unique<Impl>();
    impl->path = path;
    impl->weights_file = impl->optimizer_file = path.string();
    impl->files.emplace_back(path);
    impl->weights = read_safetensors(impl->files[0], path);
    impl->weights_hash = hash_tensors(impl->weights);
    return impl;
  }

  static std::unique_ptr<Impl> from_folder(const fs::path& folder) {
    state::Manifest manifest = state::read_manifest(folder);
    auto impl = std::make_unique<Impl>();
    impl->path = folder;
    impl->info = std::move(manifest.info);
    impl->weights_hash = manifest.weights_hash;
    impl->weights_file = (folder / state::kWeightsFile).string();
    impl->optimizer_file = (folder / state::kOptimizerFile).string();
    impl->files.push_back(map_checked(impl->weights_file, manifest.files[0]));
    impl->files.push_back(map_checked(impl->optimizer_file, manifest.files[1]));
    impl->weights = read_safetensors(impl->files[0], impl->weights_file);
    impl->optimizer = read_safetensors(impl->files[1], impl->optimizer_file);
    if (manifest.files.size() > 2) {
      const fs::path file = folder / state::kCompressionFile;
      impl->files.push_back(map_checked(file, manifest.files[2]));
      impl->compression = read_safetensors(impl->files[2], file);
    }
    if (hash_tensors(impl->weights) != impl->weights_hash) {
      fail_input(impl->weights_file, "its weights are not those of the manifest");
    }
    return impl;
  }
};

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const fs::path& path) {
  std::error_code code;
  if (fs::is_regular_file(path, code)) return Checkpoint(Impl::from_file(path));
  for (const char* name : {state::kManifestFile, state::kWeightsFile}) {
    if (fs::exists(path / name, code)) return Checkpoint(Impl::from_folder(path));
  }
  if (!fs::is_directory(path, code)) {
    fail_input(path.string(),
               "does not exist; wants a checkpoint's folder, a run directory or a "
               ".safetensors file");
  }
  std::vector<std::string> damaged;
  std::optional<Checkpoint> newest =
      open_newest(path, [&](const std::string& message) { damaged.push_back(message); });
  if (newest) return std::move(*newest);
  if (!damaged.empty()) {
    fail_input(path.string(), "every checkpoint is damaged: ", join(damaged, "; "));
  }
  fail_input(path.string(), "holds no finished checkpoint (no ", state::kManifestFile,
             " and no checkpoints/step-*/", state::kManifestFile, ")");
}

std::optional<Checkpoint> Checkpoint::open_newest(
    const fs::path& run_directory, const std::function<void(const std::string&)>& warn) {
  const fs::path directory = run_directory / "checkpoints";
  std::vector<std::int64_t> steps = state::list_steps(directory);
  std::reverse(steps.begin(), steps.end());
  for (const std::int64_t step : steps) {
    try {
      return Checkpoint(Impl::from_folder(directory / state::folder_name(step)));
    } catch (const Error& error) {
      if (warn) warn(error.what());
    }
  }
  return std::nullopt;
}

const fs::path& Checkpoint::path() const {
  return impl_->path;
}
const CheckpointInfo& Checkpoint::info() const {
  return impl_->info;
}
const std::vector<NamedTensor>& Checkpoint::weights() const {
  return impl_->weights;
}
const std::vector<NamedTensor>& Checkpoint::optimizer() const {
  return impl_->optimizer;
}
std::uint64_t Checkpoint::weights_hash() const {
  return impl_->weights_hash;
}

const std::vector<NamedTensor>& Checkpoint::compression() const {
  return impl_->compression;
}

void Checkpoint::load_weights(const std::vector<NamedTensor>& into) const {
  load_tensors(impl_->weights_file, impl_->weights, into);
}

void Checkpoint::load_optimizer(const std::vector<NamedTensor>& into) const {
  load_tensors(impl_->optimizer_file, impl_->optimizer, into);
}

}  // namespace peal
