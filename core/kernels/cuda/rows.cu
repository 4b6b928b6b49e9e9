#include "core/kernels/cuda/rows.cuh"

namespace peal::cuda {

std::size_t room_for_rows(const void* kernel, const Stream& s, std::size_t room) {
  constexpr std::size_t kAlways = 48 << 10;  // what a block has without asking
  constexpr std::size_t kOurs = 2 << 10;     // block_reduce's part, at most
  if (room + kOurs <= kAlways) return room;
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, s.device().index);
  if (room + kOurs > static_cast<std::size_t>(most)) return 0;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(room));
  check_launch("shared memory for long rows");
  return room;
}

}  // namespace peal::cuda
