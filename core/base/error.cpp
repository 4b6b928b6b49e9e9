#include "core/base/error.h"

namespace peal {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::input:
      return 2;
    case ErrorKind::peer:
      return 3;
    case ErrorKind::numeric:
      return 4;
    case ErrorKind::internal:
      return 1;
  }
  return 1;
}

Error::Error(ErrorKind kind, std::string where, std::string message)
    : std::runtime_error(where.empty() ? message : where + ": " + message),
      kind_(kind),
      where_(std::move(where)),
      message_(std::move(message)) {}

}  // namespace peal
