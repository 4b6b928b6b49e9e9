#include "comm/device_comm.h"
#include "comm/nccl/built_version.h"
#include "core/base/error.h"

namespace peal {

std::string nccl_built_version() {
  return "built without NCCL";
}

std::unique_ptr<Communicator> make_nccl_communicator(Communicator&, Device device,
                                                     const NcclOptions&) {
  require_device(device);  // "built without CUDA", if so
  fail_input(to_string(device), "built without NCCL; make_staged_communicator needs none");
}

}  // namespace peal
