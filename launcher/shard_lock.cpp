#include "launcher/shard_lock.h"

#include <unistd.h>

#include <chrono>
#include <ctime>
#include <fstream>
#include <string>
#include <thread>

#include "core/base/error.h"
#include "core/base/log.h"
#include "launcher/train.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

// Bytes of the file, and whose locks lie on them.
constexpr std::uint64_t kRun = 1 << 20, kRanks = kRun + 1;  // beyond the text

bool within(double seconds, const auto& attempt) {
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (!attempt()) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

std::string own_text() {
  char host[256] = {}, since[64] = {};
  ::gethostname(host, sizeof host - 1);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  std::strftime(since, sizeof since, "%Y-%m-%d %H:%M:%S", ::localtime_r(&now, &local));
  return cat("process ", ::getpid(), " on host ", host, ", since ", since);
}

std::string text_of(const std::filesystem::path& file) {
  std::string text;
  std::ifstream in(file);
  return std::getline(in, text) ? text : "who it is cannot be read";
}

}  // namespace

ShardLock::ShardLock(const std::filesystem::path& folder, Communicator& comm, double wait_seconds) {
  const std::filesystem::path file = folder / ".lock";
  std::int64_t taken = 0;
  together(comm, [&] {
    if (comm.rank() != 0) return;
    take(file, wait_seconds);
    taken = locks_ != nullptr;
  });
  Stream s;
  comm.wait(s, comm.broadcast(s, "lock taken", {&taken, {1}, DType::i64}, 0));
  together(comm, [&] {
    if (taken != 0) join(file);
  });
}

void ShardLock::take(const std::filesystem::path& file, double wait_seconds) {
  auto locks = std::make_unique<ByteLocks>(file);
  const std::string folder = file.parent_path().string();
  try {
    if (!within(wait_seconds, [&] { return locks->try_exclusive(kRun); })) {
      fail_input(folder, "another `peal shard` is at work in this folder: ", text_of(file),
                 "; wait for its end or choose another --out");
    }
  } catch (const Error& error) {
    if (error.where() != file.string()) throw;
    log::warn(cat(error.what(), "; make sure that no other `peal shard` works in this folder"));
    return;
  }
  if (!within(wait_seconds, [&] { return locks->try_exclusive(kRanks); })) {
    fail_input(folder, "ranks of a `peal shard` that has ended still write there (", text_of(file),
               "); end them, or choose another --out");
  }
  locks->try_shared(kRanks);
  std::ofstream(file) << own_text() << std::endl;
  locks_ = std::move(locks);
}

// Who holds the run's lock alone asks for the ranks' for itself, and rank 0 has done so before.
void ShardLock::join(const std::filesystem::path& file) {
  if (locks_) return;
  locks_ = std::make_unique<ByteLocks>(file);
  if (!locks_->try_shared(kRanks)) {
    throw Error(ErrorKind::peer, file.string(),
                "is locked by others than on rank 0; do all hosts see the same folder?");
  }
}

}  // namespace peal
