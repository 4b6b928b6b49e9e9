// NVIDIA's libraries are opened at first use: what a user reads where one is missing. No GPU is
// needed.
#include "core/device/cuda/library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace peal::cuda {
namespace {

constexpr Device kSecond{Device::Kind::cuda, 1};

void expect_input_error(const std::function<void()>& call, const std::string& where,
                        const std::string& message) {
  try {
    call();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_EQ(error.where(), where);
    EXPECT_THAT(error.message(), testing::MatchesRegex(message));
  }
}

TEST(Library, SaysWhatIsMissingAndWhereToPutIt) {
  expect_input_error([] { open_library(kSecond, "libnot_there.so.9"); }, "cuda:1",
                     "cannot open libnot_there.so.9: libnot_there.so.9: cannot open shared object "
                     "file: .*; put the folder that holds it on LD_LIBRARY_PATH");
}

TEST(Library, FindsFunctionsByName) {
  void* const library = open_library(kSecond, "libm.so.6");
  double (*cosine)(double) = nullptr;
  find_function(library, "libm.so.6", "cos", cosine);
  EXPECT_EQ(cosine(0.0), 1.0);
  expect_input_error([&] { find_function(library, "libm.so.6", "no_such_function", cosine); },
                     "libm.so.6", "has no function no_such_function: .*undefined symbol.*");
}

}  // namespace
}  // namespace peal::cuda
