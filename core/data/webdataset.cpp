// Pictures and their labels in tar files.
#include <algorithm>
#include <charconv>
#include <optional>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/data/file_patterns.h"
#include "core/data/gzip.h"
#include "core/data/picture_source.h"
#include "core/data/tar.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kLongestLabel = 32;
constexpr std::int32_t kLargestClass = 1 << 24;  // exact in a float

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

struct Key {
  std::string key, ending;
};

// At the first dot of the last part of the name.
Key split_name(const std::string& name) {
  const std::size_t slash = name.rfind('/');
  const std::size_t dot = name.find('.', slash == std::string::npos ? 0 : slash + 1);
  if (dot == std::string::npos) return {name, ""};
  return {name.substr(0, dot), lower(name.substr(dot + 1))};
}

struct Record {
  TarMember picture;
  std::uint32_t archive = 0;
  std::int32_t label = -1;  // -1: none yet
};

// The records of one archive, in order.
class Index {
 public:
  Index(std::string where, std::uint32_t archive, const std::string& label_ending,
        std::vector<Record>& records)
      : where_(std::move(where)),
        archive_(archive),
        label_ending_(lower(label_ending)),
        records_(records) {}

  void read(TarReader& reader) {
    TarMember member;
    while (reader.next(member)) {
      const Key key = split_name(member.name);
      const bool picture = is_picture_name(cat(".", key.ending)),
                 label = key.ending == label_ending_;
      if (!picture && !label) continue;
      if (key.key != key_) {
        close();
        key_ = key.key;
      }
      if (picture) add_picture(member);
      if (label) add_label(reader, member);
    }
    close();
  }

 private:
  void add_picture(const TarMember& member) {
    if (!open_.picture.name.empty()) {
      fail_input(where_, "member ", member.name, ": record ", key_, " has a second picture");
    }
    if (member.bytes > kLargestPictureFile) {
      fail_input(where_, "member ", member.name, " of ", member.bytes, " bytes; allowed are ",
                 kLargestPictureFile, " for a picture");
    }
    open_.picture = member;
  }

  void add_label(TarReader& reader, const TarMember& member) {
    if (open_.label >= 0) fail_input(where_, "member ", member.name, ": a second label");
    std::string text(std::min(member.bytes, kLongestLabel + 1), '\0');
    if (member.bytes <= kLongestLabel) reader.read(reinterpret_cast<std::byte*>(text.data()));
    const std::size_t end = text.find_last_not_of(" \t\r\n") + 1;
    const std::size_t begin = std::min(text.find_first_not_of(" \t\r\n"), end);
    std::int32_t label = -1;
    const auto [stop, code] = std::from_chars(text.data() + begin, text.data() + end, label);
    if (begin == end || code != std::errc() || stop != text.data() + end || label < 0 ||
        label > kLargestClass) {
      fail_input(where_, "member ", member.name, ": a label is a whole number from 0 to ",
                 kLargestClass, " in text");
    }
    open_.label = label;
  }

  void close() {
    const bool picture = !open_.picture.name.empty(), label = open_.label >= 0;
    if (picture != label) {
      fail_input(where_, "record ", key_, " has no ", picture ? "label, " : "picture, ", key_,
                 picture ? cat(".", label_ending_) : ".png, .jpg or .jpeg",
                 ", beside its other member");
    }
    if (picture) {
      open_.archive = archive_;
      records_.push_back(std::move(open_));
    }
    open_ = {};
  }

  std::string where_;
  std::uint32_t archive_;
  std::string label_ending_;
  std::vector<Record>& records_;
  std::string key_;
  Record open_;
};

class Tars final : public PictureSource {
 public:
  Tars(std::vector<fs::path> files, const TarOptions& options)
      : PictureSource(files[0].string(), options.picture), files_(std::move(files)) {
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const MappedFile map(files_[i]);
      const std::string where = files_[i].string();
      TarReader reader({map.data(), map.size()}, where);
      Index(where, static_cast<std::uint32_t>(i), options.label_ending, records_).read(reader);
    }
    if (records_.empty()) {
      fail_input(name(), "holds no records: no members such as 0001.png and 0001.",
                 options.label_ending);
    }
    probe();
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(records_.size()); }
  std::string record_name(std::int64_t index) const override {
    const Record& entry = at(index);
    return cat(files_[entry.archive].string(), ": member ", entry.picture.name);
  }
  float label(std::int64_t index) const override { return static_cast<float>(at(index).label); }
  std::int64_t files() const override { return static_cast<std::int64_t>(files_.size()); }
  fs::path file(std::int64_t index) const override {
    return files_[static_cast<std::size_t>(index)];
  }

 protected:
  std::span<const std::byte> bytes(std::int64_t index) override {
    const Record& entry = at(index);
    if (!map_ || open_archive_ != entry.archive) {
      reader_.reset();
      map_.emplace(files_[entry.archive]);
      open_archive_ = entry.archive;
    }
    const std::span<const std::byte> file(map_->data(), map_->size());
    if (is_gzip(file)) return inflated(file, entry);
    const TarMember& member = entry.picture;
    if (member.offset > file.size() || member.bytes > file.size() - member.offset) {
      fail_input(record_name(index), "the file has become shorter");
    }
    return file.subspan(member.offset, member.bytes);
  }

 private:
  const Record& at(std::int64_t index) const { return records_[static_cast<std::size_t>(index)]; }

  // Gzip is read from the front: on from the last member where that lies before, else again.
  std::span<const std::byte> inflated(std::span<const std::byte> file, const Record& entry) {
    const TarMember& wanted = entry.picture;
    if (reader_ && member_.offset == wanted.offset) return content_;
    const std::string where = files_[entry.archive].string();
    if (!reader_ || member_.offset > wanted.offset) reader_.emplace(file, where);
    do {
      if (!reader_->next(member_)) fail_input(where, "member ", wanted.name, " is gone");
    } while (member_.offset < wanted.offset);
    if (member_.offset != wanted.offset || member_.bytes != wanted.bytes) {
      fail_input(where, "member ", wanted.name, " is gone");
    }
    content_.resize(wanted.bytes);
    reader_->read(content_.data());
    return content_;
  }

  std::vector<fs::path> files_;
  std::vector<Record> records_;
  std::optional<MappedFile> map_;
  std::uint32_t open_archive_ = 0;
  std::optional<TarReader> reader_;  // of a gzip archive, behind `member_`
  TarMember member_;
  std::vector<std::byte> content_;
};

}  // namespace

std::unique_ptr<RecordSource> open_tars(const std::vector<std::string>& patterns,
                                        const TarOptions& options) {
  return std::make_unique<Tars>(find_files(patterns, "tar"), options);
}

}  // namespace peal
