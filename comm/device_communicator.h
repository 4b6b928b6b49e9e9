// What communicators of device memory have in common: they are made over one of host memory, their
// side, which belongs to their transport and is of the same family.
#pragma once

#include <memory>
#include <string>

#include "comm/queue.h"

namespace peal {

class DeviceCommunicator : public QueuedCommunicator {
 public:
  Buffer allocate(std::size_t bytes) override { return Buffer(bytes, place().device); }
  void set_deadline(double seconds) override;
  void set_step(std::int64_t step) override;

 protected:
  DeviceCommunicator(Communicator& side, const Device& device, const std::string& backend);

  Communicator& host_side() override;
  std::unique_ptr<Communicator> make_group_communicator(const Group& group) override;
  // Of the same kind, over a part of the ranks.
  virtual std::unique_ptr<Communicator> make_over(std::unique_ptr<Communicator> side) = 0;

 private:
  Communicator& side_;
};

}  // namespace peal
