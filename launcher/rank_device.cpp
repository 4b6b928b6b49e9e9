#include "launcher/rank_device.h"

#include <algorithm>
#include <array>
#include <vector>

#include "comm/device_comm.h"
#include "core/base/error.h"
#include "launcher/train.h"

namespace peal {
namespace {

// Whether some GPU serves two ranks, of whatever host. Collective.
bool ranks_share_a_gpu(Communicator& comm, const Device& device) {
  using Identity = std::array<char, 32>;
  Identity mine{};
  const std::string text = identity_of(device);
  std::copy_n(text.begin(), std::min(text.size(), mine.size()), mine.begin());
  std::vector<Identity> all(static_cast<std::size_t>(comm.world_size()));
  Stream s;
  const auto bytes = static_cast<std::int64_t>(sizeof mine);
  comm.wait(s, comm.all_gather(s, "GPUs", {mine.data(), {bytes}, DType::u8},
                               {all.data(), {bytes * comm.world_size()}, DType::u8}));
  std::sort(all.begin(), all.end());
  return std::adjacent_find(all.begin(), all.end()) != all.end();
}

}  // namespace

Device device_of_rank(const JobSpec& job, Communicator& comm) {
  if (job.parallel().device() == ParallelSpec::CPU) return kCpu;
  Device device{Device::Kind::cuda, 0};
  together(comm, [&] {
    if (job.parallel().has_compression()) {
      fail_input("parallel.compression",
                 "gradients on a GPU travel as they are; leave it out, or use device: CPU");
    }
    require_device(device);
    device.index = comm.local_rank() % cuda_device_count();
  });
  agree(comm, {{"GPU", name_of(device)}});
  return device;
}

std::unique_ptr<Communicator> make_gradient_communicator(const JobSpec& job, Communicator& host,
                                                         const Device& device) {
  if (device.kind == Device::Kind::cpu) return nullptr;
  const bool shared = ranks_share_a_gpu(host, device);
  const bool staged = job.parallel().gpu_comm() == ParallelSpec::STAGED ||
                      (shared && job.parallel().gpu_comm() == ParallelSpec::AUTO);
  return staged ? make_staged_communicator(host, device) : make_nccl_communicator(host, device);
}

}  // namespace peal
