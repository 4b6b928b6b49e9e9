// Records that are read one by one, so that a set of them need not fit in memory: pictures, text,
// tar files. `peal shard` makes shards of them; training reads those.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/data/dataset.h"

namespace peal {

// What each source does with its files before it says how many records it has is checked when it
// is opened; a record's own bytes are checked when it is read. Throws Error(input) that names the
// file or the member. For one thread; ranks open a source each.
class RecordSource {
 public:
  virtual ~RecordSource() = default;
  virtual std::int64_t size() const = 0;
  virtual const Shape& record_shape() const = 0;
  virtual DType record_dtype() const = 0;
  virtual const std::string& name() const = 0;  // for messages: the main file or folder
  virtual std::string record_name(std::int64_t index) const = 0;

  virtual float label(std::int64_t index) const = 0;
  // Writes the record's bytes, record_bytes() of them. Quickest in ascending order.
  virtual void read(std::int64_t index, void* out) = 0;
  // What is wrong with a record that cannot be decoded, as read() would say it; nothing when it is
  // good. Throws where the files cannot be read at all.
  virtual std::optional<std::string> corruption(std::int64_t /*index*/) { return {}; }
  // Names of the classes in the order of their labels, where the source has such.
  virtual std::vector<std::string> classes() const { return {}; }

  // The files that the records come from, in a fixed order.
  virtual std::int64_t files() const = 0;
  virtual std::filesystem::path file(std::int64_t index) const = 0;

  std::size_t record_bytes() const;
};

// A sum over files [begin, end) of a hash of number, path, size and time of change of each: the
// sums of parts add up to that of all, whoever forms them. Throws Error(input) for one that is
// missing or no regular file.
std::uint64_t fingerprint_files(const RecordSource& source, std::int64_t begin, std::int64_t end);

// A data set as a source. `files`: what it was read from.
std::unique_ptr<RecordSource> dataset_source(std::shared_ptr<const Dataset> dataset,
                                             std::vector<std::filesystem::path> files);

// How a stored picture becomes a record: u8, (H, W) when grey, (3, H, W) in colour.
enum class PictureFit : std::uint8_t {
  exact,   // pictures of another size are refused
  resize,  // stretched to the size (resize.h)
  crop     // the largest window of the right proportions about the centre, then resized
};
struct PictureOptions {
  std::int64_t height = 0, width = 0;  // 0: of the first picture
  int channels = 0;  // 1 grey, 3 colour: others are converted; 0: of the first, others are refused
  PictureFit fit = PictureFit::exact;
  bool skip_corrupt = false;  // for the shape alone: the first picture that can be decoded gives it
};

// One subfolder a class, in it .png, .jpg and .jpeg files, both in the order of their names as
// bytes; names with a dot in front are left out, symbolic links to files and folders followed.
std::unique_ptr<RecordSource> open_picture_folder(const std::filesystem::path& folder,
                                                  const PictureOptions& options);

// WebDataset's convention: members that follow one another and are named alike up to the first dot
// are a record: <key>.png, .jpg or .jpeg and <key>.<label_ending>, a whole number in text; members
// with other endings are left out. Plain or gzip.
struct TarOptions {
  std::string label_ending = "cls";
  PictureOptions picture;
};
std::unique_ptr<RecordSource> open_tars(const std::vector<std::string>& patterns,
                                        const TarOptions& options);

// u8 records of `length` bytes, padded with 0.
struct TextOptions {
  bool lines = true;  // a line a record, without its end; empty lines are left out. false: the file
                      // in pieces of `length`
  std::int64_t length = 0;
  bool label_first = false;  // lines begin with a whole number and a space, tab or comma: the label
  bool cut_long = false;     // lines longer than `length` are cut; false: refused
};
// Plain (mapped) or gzip (inflated into memory). Labels are 0 but for label_first.
std::unique_ptr<RecordSource> open_text(const std::vector<std::string>& patterns,
                                        const TextOptions& options);

}  // namespace peal
