// Records with labels, read from files into memory or mapped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/device/tensor.h"

namespace peal {

// Random access, safe from many threads. Everything about a file is checked when it is opened:
// missing, truncated, corrupt, too large and inconsistent files throw Error(input) that names the
// file, the place in it (offset, line, column, record), what was found and what is allowed.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::int64_t size() const = 0;
  virtual const Shape& record_shape() const = 0;  // (28, 28), (100)
  virtual DType record_dtype() const = 0;         // u8 or f32; i32: tokens (tokens.h)
  virtual const void* record(std::int64_t index) const = 0;
  // A class number, or a target value. Class numbers are exact in a float up to 2^24.
  virtual float label(std::int64_t index) const = 0;
  virtual const std::string& name() const = 0;  // for messages: the main file

  // The first record of each shard and, last, size(); empty when the records lie in one piece.
  virtual std::span<const std::int64_t> shard_starts() const { return {}; }
  // false: records are fetched as want() says, and record() and label() wait for theirs; they throw
  // what fetching ended with.
  virtual bool whole() const { return true; }
  // What will be read: these shards, soonest first, the first `now` of them at once. All others are
  // let go: of them no record is being read, and none will be before they are listed again. Returns
  // at once; does nothing where all records are there.
  virtual void want(std::span<const std::int64_t> shards, std::size_t now) const {
    (void)shards, (void)now;
  }
  // Bytes of the shards wanted at once, how many of them have not come yet, and how many were
  // fetched by this object so far. Throws what fetching ended with.
  struct Arrival {
    std::uint64_t bytes = 0, missing = 0, fetched = 0;
  };
  virtual Arrival arrival() const { return {}; }
};

// IDX, plain or gzip (told apart by content). u8 records; other element types become f32.
std::unique_ptr<Dataset> open_idx(const std::filesystem::path& images,
                                  const std::filesystem::path& labels);

struct CsvOptions {
  bool header = true;
  std::string label_column = "label";  // a name (with a header) or a number, negative from the end
  char delimiter = ',';
};
// RFC 4180 with quoted fields, LF or CRLF, plain or gzip; every other column is a number.
std::unique_ptr<Dataset> open_csv(const std::filesystem::path& path, const CsvOptions& options);

// The first `limit` records.
std::unique_ptr<Dataset> limit_records(std::unique_ptr<Dataset> dataset, std::int64_t limit);

// Records and labels that the caller made (tests, benchmarks).
std::unique_ptr<Dataset> memory_dataset(std::string name, const Shape& record_shape, DType dtype,
                                        std::vector<std::byte> records, std::vector<float> labels);

// Throws Error(input) that names the file and the first record whose label is not a whole number
// in [0, classes).
void check_class_labels(const Dataset& dataset, std::int64_t classes);

}  // namespace peal
