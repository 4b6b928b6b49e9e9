// Folders of pictures by class.
#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/data/picture.h"
#include "core/data/picture_source.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

enum class Entry : std::uint8_t { file, folder, other };

Entry kind_of(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    fail_input(path.string(), "cannot stat: ", std::strerror(errno));
  }
  if (S_ISREG(info.st_mode)) return Entry::file;
  return S_ISDIR(info.st_mode) ? Entry::folder : Entry::other;
}

// Names in a folder without those that begin with a dot, sorted as bytes.
std::vector<std::pair<std::string, Entry>> list_folder(const fs::path& folder) {
  DIR* handle = ::opendir(folder.c_str());
  if (handle == nullptr) {
    fail_input(folder.string(), "cannot open the folder: ", std::strerror(errno));
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> owner(handle, ::closedir);
  std::vector<std::pair<std::string, Entry>> names;
  errno = 0;
  while (const dirent* entry = ::readdir(handle)) {
    const std::string name = entry->d_name;
    if (name.starts_with('.')) continue;
    // A file system need not tell the kind, and of a link it is not the one that counts.
    const bool plain = entry->d_type == DT_REG || entry->d_type == DT_DIR;
    names.emplace_back(name, plain ? (entry->d_type == DT_REG ? Entry::file : Entry::folder)
                                   : kind_of(folder / name));
    errno = 0;
  }
  if (errno != 0) fail_input(folder.string(), "cannot read the folder: ", std::strerror(errno));
  std::sort(names.begin(), names.end());
  return names;
}

class PictureFolder final : public PictureSource {
 public:
  PictureFolder(const fs::path& folder, const PictureOptions& options)
      : PictureSource(folder.string(), options), folder_(folder) {
    for (const auto& [name, kind] : list_folder(folder)) {
      if (kind == Entry::folder) {
        add_class(name);
      } else if (is_picture_name(name)) {
        fail_input((folder / name).string(),
                   "lies outside of a class: a picture is in one of the "
                   "folders beside it, which are the classes");
      }
    }
    if (pictures_.empty()) {
      fail_input(folder.string(), "holds no folder with pictures; one a class is expected");
    }
    probe();
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(pictures_.size()); }
  std::string record_name(std::int64_t index) const override { return file(index).string(); }
  float label(std::int64_t index) const override {
    return static_cast<float>(pictures_[static_cast<std::size_t>(index)].label);
  }
  std::vector<std::string> classes() const override { return classes_; }
  std::int64_t files() const override { return size(); }
  fs::path file(std::int64_t index) const override {
    const File& picture = pictures_[static_cast<std::size_t>(index)];
    return folder_ / classes_[picture.label] / picture.name;
  }

 protected:
  std::span<const std::byte> bytes(std::int64_t index) override {
    const fs::path path = file(index);
    if (kind_of(path) != Entry::file) fail_input(path.string(), "is not a regular file");
    content_ = read_file(path);
    return std::as_bytes(std::span(content_));
  }

 private:
  struct File {
    std::uint32_t label;
    std::string name;
  };

  void add_class(const std::string& name) {
    const auto label = static_cast<std::uint32_t>(classes_.size());
    const std::size_t before = pictures_.size();
    for (auto& [file_name, kind] : list_folder(folder_ / name)) {
      if (kind != Entry::file || !is_picture_name(file_name)) {
        fail_input((folder_ / name / file_name).string(),
                   "is no .png, .jpg or .jpeg file; a class holds nothing else");
      }
      pictures_.push_back({label, std::move(file_name)});
    }
    if (pictures_.size() == before) {
      fail_input((folder_ / name).string(), "holds no pictures; every folder is a class");
    }
    classes_.push_back(name);
  }

  fs::path folder_;
  std::vector<std::string> classes_;
  std::vector<File> pictures_;
  std::string content_;
};

}  // namespace

std::unique_ptr<RecordSource> open_picture_folder(const fs::path& folder,
                                                  const PictureOptions& options) {
  return std::make_unique<PictureFolder>(folder, options);
}

}  // namespace peal
