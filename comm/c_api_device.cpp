// Communicators of device memory in the C API.
#include "comm/c_api.h"
#include "comm/device_comm.h"

namespace peal::c_api {
namespace {

// One that is not there is refused on every rank alike, by what is made for it.
Device device_of(int number) {
  return number == PEAL_CPU ? kCpu : Device{Device::Kind::cuda, number};
}

peal_device_options device_options(const peal_device_options* options) {
  return read_options<peal_device_options>(options, PEAL_DEVICE_OPTIONS, "peal_device_options");
}

}  // namespace
}  // namespace peal::c_api

using namespace peal;
using namespace peal::c_api;

namespace {

// make(host side, device, options): collective over `host`.
template <typename Make>
peal_status create(peal_comm* host, int device, const peal_device_options* options, peal_comm** out,
                   const Make& make) {
  return guarded([&] {
    Communicator& side = comm_of(host);
    require(out, "out");
    const Device place = device_of(device);
    *out = handle_of(make(side, place, device_options(options)), place);
  });
}

}  // namespace

peal_status peal_comm_create_staged(peal_comm* host, int device, const peal_device_options* options,
                                    peal_comm** out) {
  return create(host, device, options, out,
                [](Communicator& side, const Device& place, const peal_device_options& read) {
                  return make_staged_communicator(side, place, {read.chunk_bytes});
                });
}

peal_status peal_comm_create_nccl(peal_comm* host, int device, const peal_device_options* options,
                                  peal_comm** out) {
  return create(host, device, options, out,
                [](Communicator& side, const Device& place, const peal_device_options& read) {
                  return make_nccl_communicator(side, place,
                                                {.compare_calls = read.compare_calls != 0});
                });
}

peal_status peal_set_stream(peal_comm* comm, void* stream) {
  return guarded([&] {
    Stream& mine = stream_of(comm);
    if (stream != nullptr && mine.device().kind == Device::Kind::cpu) {
      fail_input("peal_set_stream",
                 "the memory of this communicator is on the CPU, which has no "
                 "streams; NULL is allowed");
    }
    mine = Stream::borrow(stream, mine.device());
  });
}
