// What sources of pictures share: from the bytes of a file to a record.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "core/data/picture.h"

namespace peal {

bool is_picture_name(std::string_view name);  // .png, .jpg, .jpeg in any case

class PictureSource : public RecordSource {
 public:
  PictureSource(std::string name, const PictureOptions& options)
      : name_(std::move(name)), options_(options) {}

  const Shape& record_shape() const override { return writer_->shape(); }
  DType record_dtype() const override { return DType::u8; }
  const std::string& name() const override { return name_; }
  void read(std::int64_t index, void* out) override;
  std::optional<std::string> corruption(std::int64_t index) override;

 protected:
  // The stored picture; valid until the next call.
  virtual std::span<const std::byte> bytes(std::int64_t index) = 0;
  // Learns the shape of a record from the first picture, or the first that can be decoded.
  void probe();

 private:
  std::string name_;
  PictureOptions options_;
  std::optional<PictureWriter> writer_;
  Picture picture_;
};

}  // namespace peal
