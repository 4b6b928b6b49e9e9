#include "launcher/batch_feed.h"

#include "core/base/error.h"

namespace peal {

BatchFeed::BatchFeed(Loader& loader, const Shape& x, const Device& device, bool ahead)
    : loader_(loader),
      x_shape_(x),
      device_(device),
      ahead_(ahead),
      copies_(device),
      landing_(ahead ? loader.batch_bytes() : 0, device),
      place_(landing_.size(), device),
      arrived_(device),
      taken_(device) {}

BatchFeed::~BatchFeed() {
  try {
    arrived_.synchronize();  // the loader's memory goes next
  } catch (const Error&) {   // of work that was told of where it was enqueued
  }
}

void BatchFeed::feed(Plan& plan, Stream& s, const BatchItem& item) {
  if (!brought_ || *brought_ != item) bring(item);
  brought_.reset();
  if (ahead_) {
    s.wait(arrived_);
    copy(s, place_.data(), landing_.data(), place_.size());
    taken_.record(s);
  }
  const auto set = [&](const char* name, Tensor tensor) {
    if (ahead_) {
      tensor.data = place_.data() + (tensor.as<std::byte>() - held_->whole.data());
      tensor.device = device_;
    }
    plan.set_input(name, tensor);
  };
  set("x", {.data = held_->x.data, .shape = x_shape_, .dtype = held_->x.dtype});
  set("labels", held_->labels);
  set("weight", held_->weight);
}

void BatchFeed::done() {
  if (!ahead_) give_back();
}

void BatchFeed::ask(const BatchItem& item) {
  if (!ahead_) return;
  try {
    bring(item);
  } catch (const Error&) {  // the loader throws it again
  }
}

void BatchFeed::bring(const BatchItem& item) {
  give_back();
  held_ = &loader_.acquire(item.step, item.virtual_rank, item.part);
  brought_ = item;
  if (!ahead_) return;
  copies_.wait(taken_);
  copy(copies_, landing_.data(), held_->whole.data(), held_->whole.size());
  arrived_.record(copies_);
}

void BatchFeed::give_back() {
  if (held_ == nullptr) return;
  if (ahead_) arrived_.synchronize();
  loader_.release(*held_);
  held_ = nullptr;
}

}  // namespace peal
