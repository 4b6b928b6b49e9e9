// The one exception type of the tree.
#pragma once

#include <stdexcept>
#include <string>

#include "core/base/text.h"

namespace peal {

enum class ErrorKind {
  input,     // a bad job, file, flag or value: exit code 2
  peer,      // another rank or the network failed: exit code 3
  numeric,   // NaN, or ranks out of step: exit code 4
  internal,  // anything else: exit code 1
};

int exit_code(ErrorKind kind);

// `where` is the place (file, field, tensor, rank); `message` says what was given and what is
// allowed. what() is "where: message".
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string where, std::string message);

  ErrorKind kind() const { return kind_; }
  const std::string& where() const { return where_; }
  const std::string& message() const { return message_; }

 private:
  ErrorKind kind_;
  std::string where_;
  std::string message_;
};

// throw Error(input, where, cat(parts...))
template <typename... Parts>
[[noreturn]] void fail_input(std::string where, const Parts&... parts) {
  throw Error(ErrorKind::input, std::move(where), cat(parts...));
}

// A broken promise inside Peal, never the user's fault.
template <typename... Parts>
[[noreturn]] void fail_internal(std::string where, const Parts&... parts) {
  throw Error(ErrorKind::internal, std::move(where), cat(parts...));
}

}  // namespace peal
