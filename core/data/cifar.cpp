#include "core/data/cifar.h"

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/data/file_patterns.h"
#include "core/data/gzip.h"
#include "core/data/records.h"

namespace peal {

void parse_cifar(std::span<const std::byte> file, const std::string& where, CifarRecords& records) {
  const ReadBytes read = byte_reader(file, where);
  std::vector<std::byte> record(1 + kCifarPixels);
  for (std::int64_t i = 0;; ++i) {
    const std::size_t bytes = read(record.data(), record.size());
    if (bytes == 0 && i > 0) return;
    if (bytes == 0)
      fail_input(where, "is empty; records of ", record.size(), " bytes are expected");
    if (bytes < record.size()) {
      fail_input(where, "ends in record ", i, ", after ", bytes, " of its ", record.size(),
                 " bytes (a label and 3 x 32 x 32 pixels)");
    }
    const int label = std::to_integer<int>(record[0]);
    if (label >= kCifarClasses) {
      fail_input(where, "record ", i, " has label ", label, "; allowed are 0 to ",
                 kCifarClasses - 1);
    }
    records.labels.push_back(static_cast<float>(label));
    records.pixels.insert(records.pixels.end(), record.begin() + 1, record.end());
  }
}

std::unique_ptr<Dataset> open_cifar(const std::vector<std::string>& patterns,
                                    const CifarOptions& options) {
  auto records = std::make_shared<CifarRecords>();
  const std::vector<std::filesystem::path> files = find_files(patterns, "data");
  for (const std::filesystem::path& path : files) {
    const MappedFile file(path);
    parse_cifar({file.data(), file.size()}, path.string(), *records);
  }
  const std::string name = files[0].string();
  const auto size = static_cast<std::int64_t>(records->labels.size());
  const std::int64_t end = options.end == 0 ? size : options.end;
  if (options.begin < 0 || options.begin >= end || end > size) {
    fail_input(name, "records ", options.begin, " to ", end, " of ", size,
               "; the first must lie before the end, and the end within the files");
  }
  const auto first = static_cast<std::size_t>(options.begin), last = static_cast<std::size_t>(end);
  return array_dataset({name,
                        {3, kCifarSide, kCifarSide},
                        DType::u8,
                        records->pixels.data() + first * kCifarPixels,
                        {records->labels.data() + first, records->labels.data() + last},
                        records});
}

}  // namespace peal
