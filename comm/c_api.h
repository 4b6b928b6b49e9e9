// What the sources of the C API share: one for MPI, one for the calls, one for all else.
#pragma once

#include <cstring>
#include <memory>

#include "comm/communicator.h"
#include "comm/peal.h"
#include "core/base/error.h"
#include "core/device/stream.h"

struct peal_comm {
  std::unique_ptr<peal::Communicator> owned;  // null: the thread that runs the rank owns it
  peal::Communicator* comm = nullptr;
  peal::Stream stream;  // of its calls, on the device of their memory
};

namespace peal::c_api {

// Turns the exception in flight into a status and this thread's last error.
peal_status caught() noexcept;
// Runs `body`; no exception leaves.
template <typename Body>
peal_status guarded(const Body& body) noexcept {
  try {
    body();
    return PEAL_OK;
  } catch (...) {
    return caught();
  }
}
// Throws Error(input) unless the caller's argument is there.
void require(const void* argument, const char* name);
// The defaults with the caller's fields over them.
HostOptions host_options(const peal_comm_options* options);
Communicator& comm_of(const peal_comm* comm);
Stream& stream_of(peal_comm* comm);
// An enumerator that C handed over as a number; the last one is `last`.
template <typename Enum>
Enum checked(int value, Enum last, const char* name) {
  if (value < 0 || value > static_cast<int>(last)) {
    fail_input(name, value, " is not in 0..", static_cast<int>(last));
  }
  return static_cast<Enum>(value);
}

// A handle, or null for null; its calls are in the default stream of `device`.
peal_comm* handle_of(std::unique_ptr<Communicator> comm, const Device& device = kCpu);
// The caller's struct, as much of it as the caller knew, over the defaults.
template <typename Options>
Options read_options(const Options* given, const Options& defaults, const char* name) {
  if (given == nullptr) return defaults;
  if (given->size < sizeof(std::size_t) || given->size > sizeof(Options)) {
    fail_input(name, "size is ", given->size, "; this library knows up to ", sizeof(Options),
               " bytes (initialise the struct with its macro)");
  }
  Options options = defaults;
  std::memcpy(&options, given, given->size);
  return options;
}

}  // namespace peal::c_api
