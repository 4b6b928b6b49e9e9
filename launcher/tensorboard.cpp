#include "launcher/tensorboard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/base/checksum.h"
#include "core/base/error.h"

namespace peal {
namespace {

// The few fields of tensorflow/core/util/event.proto and framework/summary.proto that are needed,
// in Protobuf's wire format.
void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>(value | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

void put_int(std::string& out, int field, std::uint64_t value) {
  put_varint(out, static_cast<std::uint64_t>(field) << 3);
  put_varint(out, value);
}

template <typename T>
void put_raw(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void put_double(std::string& out, int field, double value) {
  put_varint(out, (static_cast<std::uint64_t>(field) << 3) | 1);
  put_raw(out, value);
}

void put_float(std::string& out, int field, float value) {
  put_varint(out, (static_cast<std::uint64_t>(field) << 3) | 5);
  put_raw(out, value);
}

void put_bytes(std::string& out, int field, const std::string& bytes) {
  put_varint(out, (static_cast<std::uint64_t>(field) << 3) | 2);
  put_varint(out, bytes.size());
  out += bytes;
}

void put_doubles(std::string& out, int field, const std::vector<double>& values) {
  std::string packed;
  for (const double value : values) put_raw(packed, value);
  put_bytes(out, field, packed);
}

// TFRecord's masked checksum (tensorflow/core/lib/hash/crc32c.h).
std::uint32_t masked_crc(const std::string& bytes) {
  return std::rotr(crc32c(bytes.data(), bytes.size()), 15) + 0xa282ead8u;
}

// Summary with one value: tag = 1, and a field of Summary.Value that holds `value`.
std::string summary(const std::string& tag, const std::string& value) {
  std::string inner;
  put_bytes(inner, 1, tag);
  inner += value;
  std::string outer;
  put_bytes(outer, 1, inner);
  std::string event;
  put_bytes(event, 5, outer);
  return event;
}

}  // namespace

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& directory,
                                     std::int64_t start_step)
    : path_(directory / cat("events.out.tfevents.", start_step, ".peal")),
      file_(path_, std::ios::binary | std::ios::trunc) {
  if (!file_) fail_input(path_.string(), "cannot create: ", std::strerror(errno));
  std::string version;
  put_bytes(version, 3, "brain.Event:2");
  write_event(0, version);
  if (start_step == 0) return;
  std::string session;
  put_int(session, 1, 1);  // SessionLog.START
  std::string event;
  put_bytes(event, 7, session);
  write_event(start_step + 1, event);
}

void TensorBoardWriter::write_event(std::int64_t step, const std::string& payload) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::string event;
  put_double(event, 1, std::chrono::duration<double>(now).count());
  put_int(event, 2, static_cast<std::uint64_t>(step));
  event += payload;
  std::string length;
  put_raw(length, static_cast<std::uint64_t>(event.size()));
  std::string record = length;
  put_raw(record, masked_crc(length));
  record += event;
  put_raw(record, masked_crc(event));
  file_.write(record.data(), static_cast<std::streamsize>(record.size()));
}

void TensorBoardWriter::scalar(const std::string& tag, std::int64_t step, double value) {
  std::string field;
  put_float(field, 2, static_cast<float>(value));
  write_event(step, summary(tag, field));
}

void TensorBoardWriter::histogram(const std::string& tag, std::int64_t step,
                                  std::span<const float> values) {
  if (values.empty()) return;
  constexpr int kBuckets = 64;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double minimum = *low, maximum = *high;
  const double width = maximum > minimum ? (maximum - minimum) / kBuckets : 1;
  std::vector<double> edges(kBuckets), counts(kBuckets);
  for (int i = 0; i < kBuckets; ++i) edges[static_cast<std::size_t>(i)] = minimum + width * (i + 1);
  double sum = 0, squares = 0;
  for (const float value : values) {
    if (!std::isfinite(value)) continue;
    sum += value;
    squares += static_cast<double>(value) * value;
    const int bucket = std::clamp(static_cast<int>((value - minimum) / width), 0, kBuckets - 1);
    counts[static_cast<std::size_t>(bucket)] += 1;
  }
  std::string histogram;
  put_double(histogram, 1, minimum);
  put_double(histogram, 2, maximum);
  put_double(histogram, 3, static_cast<double>(values.size()));
  put_double(histogram, 4, sum);
  put_double(histogram, 5, squares);
  put_doubles(histogram, 6, edges);
  put_doubles(histogram, 7, counts);
  std::string field;
  put_bytes(field, 5, histogram);
  write_event(step, summary(tag, field));
}

void TensorBoardWriter::flush() {
  if (!file_.flush()) fail_input(path_.string(), "cannot write: ", std::strerror(errno));
}

}  // namespace peal
