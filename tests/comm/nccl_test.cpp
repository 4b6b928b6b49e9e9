// What the makers of device communicators say of a GPU that is not there: one sentence, on every
// rank.
#include <gtest/gtest.h>

#include "comm/device_comm.h"
#include "tests/comm/group_contract.h"

namespace peal {
namespace {

TEST(NoSuchGpu, EveryRankIsToldWhy) {
  const Device gpu{Device::Kind::cuda, cuda_device_count()};
  const std::string where = to_string(gpu);
  run_local_ranks(3, [&](Communicator& host) {
    const std::string nccl =
        contract::error_of(ErrorKind::input, [&] { make_nccl_communicator(host, gpu); });
    const std::string staged =
        contract::error_of(ErrorKind::input, [&] { make_staged_communicator(host, gpu); });
    contract::require_text(staged, nccl);
    const bool known = nccl.find(where + ": built without CUDA") != std::string::npos ||
                       nccl.find(where + ": no CUDA device is visible: ") != std::string::npos ||
                       nccl.find(where + ": there is no such CUDA device") != std::string::npos;
    contract::require(known, nccl);
    Stream s;
    host.wait(s, host.barrier(s, "the host communicator goes on"));
  });
}

}  // namespace
}  // namespace peal
