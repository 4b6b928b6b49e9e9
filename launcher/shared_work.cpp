#include "launcher/shared_work.h"

#include <memory>
#include <thread>

#include "core/base/error.h"
#include "launcher/stop_signal.h"

namespace peal {
namespace {

constexpr auto kPause = std::chrono::milliseconds(250);

}  // namespace

SharedWork::SharedWork(Communicator& comm, std::function<void(std::int64_t)> show)
    : comm_(comm), show_(std::move(show)), next_(Clock::now() + kPause) {}

bool SharedWork::go_on(std::int64_t done) {
  done_ = done;
  if (!over_) meet();
  return !over_;
}

void SharedWork::meet() {
  if (meeting_) {
    if (comm_.done(request_)) conclude();
    return;
  }
  if (!ended_ && Clock::now() < next_) return;
  mine_ = {.done = done_, .ended = ended_, .failed = failed_, .stop = StopSignal::asked()};
  request_ = comm_.all_reduce(stream_, "progress", {&mine_, {4}, DType::i64},
                              {&all_, {4}, DType::i64}, ReduceOp::sum);
  meeting_ = true;
}

void SharedWork::conclude() {
  comm_.wait(stream_, request_);
  meeting_ = false;
  next_ = Clock::now() + kPause;
  show_(all_.done);
  over_ = all_.ended == comm_.world_size() || all_.failed > 0 || all_.stop > 0;
}

bool SharedWork::run(const std::function<void()>& work) {
  std::unique_ptr<Error> error;
  try {
    work();
  } catch (const Error& caught) {
    if (caught.kind() == ErrorKind::peer) throw;  // the communicator is broken
    error = std::make_unique<Error>(caught);
  } catch (const std::exception& caught) {
    error = std::make_unique<Error>(ErrorKind::internal, "", caught.what());
  }
  ended_ = true;
  failed_ = error != nullptr;
  while (!over_) {
    meet();
    if (meeting_) conclude();
  }
  agree_on_error(comm_, error.get());
  return all_.ended == comm_.world_size();
}

}  // namespace peal
