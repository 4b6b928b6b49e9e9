// Files: read whole, map, and write so that a reader never sees half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace peal {

// Every function throws Error(input) that begins with the path.

std::string read_file(const std::filesystem::path& path);

// Writes path.tmp, syncs it, renames it over `path` and syncs the folder. On an error the
// temporary file is removed and `path` is as it was.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

void sync_folder(const std::filesystem::path& folder);
void make_folders(const std::filesystem::path& folder);

// A file being written piece by piece under a temporary name. commit() syncs and renames;
// without it the destructor removes the temporary file.
class FileWriter {
 public:
  explicit FileWriter(std::filesystem::path path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // Overwrites bytes that were written before, such as a header whose fields are known last.
  void write_at(std::uint64_t offset, const void* data, std::size_t bytes);
  std::uint64_t position() const { return position_; }
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  std::uint64_t position_ = 0;
};

// A read-only memory map of a whole file. An empty file maps to size 0.
class MappedFile {
 public:
  // Whose it may be: where everybody may make files, as in /dev/shm, another user's is refused, and
  // so is a pipe, at once.
  enum class Owner : std::uint8_t { anyone, this_user };

  explicit MappedFile(const std::filesystem::path& path, Owner owner = Owner::anyone);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace peal
