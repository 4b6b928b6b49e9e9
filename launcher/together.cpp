#include <memory>

#include "core/base/error.h"
#include "launcher/train.h"

namespace peal {

void together(Communicator& comm, const std::function<void()>& work) {
  std::unique_ptr<Error> mine;
  try {
    work();
  } catch (const Error& error) {
    mine = std::make_unique<Error>(error);
  } catch (const std::exception& error) {
    mine = std::make_unique<Error>(ErrorKind::internal, "", error.what());
  }
  agree_on_error(comm, mine.get());
}

}  // namespace peal
