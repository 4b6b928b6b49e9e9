#include "core/base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "core/base/error.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

template <typename F>
std::string error_of(const F& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "no error";
}

TEST(Files, APipeIsRefusedAndNobodyWaitsForItsWriter) {
  const TemporaryFolder folder;
  const std::filesystem::path pipe = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { MappedFile(pipe, MappedFile::Owner::this_user); }),
            pipe.string() + ": is not a regular file");
}

TEST(Files, AnotherUsersIsRefusedWhereItIsAsked) {
  const TemporaryFolder folder;
  std::filesystem::path path = folder.path() / "file";
  std::ofstream(path) << "text";
  EXPECT_EQ(MappedFile(path, MappedFile::Owner::this_user).size(), 4u);
  if (::geteuid() != 0) {
    path = "/etc/passwd";  // who is not root may not give files away
  } else {
    ASSERT_EQ(::chown(path.c_str(), 1, 1), 0);
  }
  EXPECT_GT(MappedFile(path).size(), 0u);
  EXPECT_THAT(error_of([&] { MappedFile(path, MappedFile::Owner::this_user); }),
              testing::StartsWith(path.string() + ": belongs to user "));
}

}  // namespace
}  // namespace peal
