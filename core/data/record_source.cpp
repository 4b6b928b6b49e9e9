#include "core/data/record_source.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "core/base/checksum.h"
#include "core/base/error.h"

namespace peal {
namespace {

class DatasetSource final : public RecordSource {
 public:
  DatasetSource(std::shared_ptr<const Dataset> dataset, std::vector<std::filesystem::path> files)
      : dataset_(std::move(dataset)), files_(std::move(files)) {}

  std::int64_t size() const override { return dataset_->size(); }
  const Shape& record_shape() const override { return dataset_->record_shape(); }
  DType record_dtype() const override { return dataset_->record_dtype(); }
  const std::string& name() const override { return dataset_->name(); }
  std::string record_name(std::int64_t index) const override {
    return cat(name(), ": record ", index);
  }
  float label(std::int64_t index) const override { return dataset_->label(index); }
  void read(std::int64_t index, void* out) override {
    std::memcpy(out, dataset_->record(index), record_bytes());
  }
  std::int64_t files() const override { return static_cast<std::int64_t>(files_.size()); }
  std::filesystem::path file(std::int64_t index) const override {
    return files_[static_cast<std::size_t>(index)];
  }

 private:
  std::shared_ptr<const Dataset> dataset_;
  std::vector<std::filesystem::path> files_;
};

}  // namespace

std::size_t RecordSource::record_bytes() const {
  return static_cast<std::size_t>(record_shape().numel()) * size_of(record_dtype());
}

std::uint64_t fingerprint_files(const RecordSource& source, std::int64_t begin, std::int64_t end) {
  std::uint64_t sum = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const std::string path = source.file(i).string();
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) fail_input(path, "cannot stat: ", std::strerror(errno));
    if (!S_ISREG(info.st_mode)) fail_input(path, "is not a regular file");
    const std::int64_t numbers[] = {i, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    sum += xxh64(path.data(), path.size(), xxh64(numbers, sizeof numbers));
  }
  return sum;
}

std::unique_ptr<RecordSource> dataset_source(std::shared_ptr<const Dataset> dataset,
                                             std::vector<std::filesystem::path> files) {
  return std::make_unique<DatasetSource>(std::move(dataset), std::move(files));
}

}  // namespace peal
