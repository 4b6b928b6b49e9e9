// Brings a lane's batches to where its plan computes.
#pragma once

#include <cstdint>
#include <optional>

#include "core/data/loader.h"
#include "core/device/buffer.h"
#include "core/device/stream.h"
#include "core/graph/plan.h"

namespace peal {

// Of the loader's items, one a call of its acquire().
struct BatchItem {
  std::int64_t step = 0;
  int virtual_rank = 0, part = 0;
  friend bool operator==(const BatchItem&, const BatchItem&) = default;
};

// A batch is used where it lies; or, `ahead`, it is copied to `device` on a stream of its own while
// what came before is computed, and from there, within the device, to the plan's inputs, whose
// addresses stay. The host waits for nothing that it has enqueued for the batch before.
class BatchFeed {
 public:
  // `x`: shape of the plan's input x. The loader stays until this is gone.
  BatchFeed(Loader& loader, const Shape& x, const Device& device, bool ahead);
  ~BatchFeed();
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;

  // Inputs x, labels and weight of `plan` are the item's for what is enqueued in `s` until done().
  // Throws what the loader does.
  void feed(Plan& plan, Stream& s, const BatchItem& item);
  void done();
  // The item that feed() will get next may come already. If it cannot, feed() will say so.
  void ask(const BatchItem& item);

 private:
  void bring(const BatchItem& item);
  void give_back();

  Loader& loader_;
  const Shape x_shape_;
  const Device device_;
  const bool ahead_;
  const Batch* held_ = nullptr;
  std::optional<BatchItem> brought_;
  Stream copies_;
  Buffer landing_, place_;  // of a whole batch
  Event arrived_, taken_;   // in and out of landing_
};

}  // namespace peal
