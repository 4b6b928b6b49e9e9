#include "comm/device_communicator.h"

namespace peal {
namespace {

QueuedCommunicator::Place place_over(Communicator& side, const Device& device,
                                     const std::string& backend) {
  const QueuedCommunicator& queue = queue_of(side);
  QueuedCommunicator::Place place = queue.place();
  place.deadline = queue.watch().deadline;
  place.backend = backend;
  place.device = device;
  place.own_streams = true;
  place.groups = nullptr;
  return place;
}

}  // namespace

DeviceCommunicator::DeviceCommunicator(Communicator& side, const Device& device,
                                       const std::string& backend)
    : QueuedCommunicator(place_over(side, device, backend)), side_(side) {}

void DeviceCommunicator::set_deadline(double seconds) {
  QueuedCommunicator::set_deadline(seconds);
  side_.set_deadline(seconds);
}

void DeviceCommunicator::set_step(std::int64_t step) {
  QueuedCommunicator::set_step(step);
  side_.set_step(step);
}

// No call is made over there meanwhile.
Communicator& DeviceCommunicator::host_side() {
  drain();
  return side_;
}

std::unique_ptr<Communicator> DeviceCommunicator::make_group_communicator(const Group& group) {
  auto side = group.empty() ? side_.split(kNoGroup, 0) : side_.split(group.members[0], group.rank);
  return side ? make_over(std::move(side)) : nullptr;
}

}  // namespace peal
