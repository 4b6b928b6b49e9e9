#include "core/data/loader.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "core/base/error.h"
#include "core/data/tokens.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

// With accumulation a whole step's share is kept only while it is small; beyond it, the batches of
// one part and those to prefetch.
constexpr std::size_t kStepBytes = std::size_t{256} << 20;

enum class State { free, filling, ready, held };

struct Slot {
  Batch batch;
  State state = State::free;
  std::int64_t item = -1;
  std::exception_ptr error;
};

void check_options(const LoaderOptions& o) {
  const std::int64_t parts = std::int64_t{o.virtual_ranks} * o.accumulate_steps;
  if (o.virtual_ranks < 1 || o.accumulate_steps < 1 || o.global_batch < 1 ||
      o.global_batch % parts != 0) {
    fail_input("train.global_batch", o.global_batch, "; allowed are multiples of ", parts, " (",
               o.virtual_ranks, " virtual ranks x ", o.accumulate_steps, " accumulated steps)");
  }
  if (o.first_virtual_rank < 0 || o.first_virtual_rank >= o.end_virtual_rank ||
      o.end_virtual_rank > o.virtual_ranks) {
    fail_internal("loader", "virtual ranks ", o.first_virtual_rank, " to ", o.end_virtual_rank,
                  " of ", o.virtual_ranks);
  }
  if (o.first_step < 0 || o.threads < 0 || o.prefetch_batches < 0) {
    fail_internal("loader", "first step ", o.first_step, ", ", o.threads, " threads, ",
                  o.prefetch_batches, " batches ahead");
  }
}

}  // namespace

// Items are numbered in the order step, part, virtual rank. An item is unclaimed, in a slot, or
// done (released). Threads claim the first unclaimed item while a slot is free; acquire() prepares
// an item itself that nobody has claimed, and takes the slot of the item furthest ahead when none
// is free. So no order of acquire() waits for a batch that nobody prepares.
struct Loader::Impl {
  Impl(std::shared_ptr<const Dataset> data, std::shared_ptr<const Preprocess> steps,
       const LoaderOptions& given);
  ~Impl();

  void make_slots();
  std::int64_t first_position(std::int64_t step) const;
  std::int64_t step_of(std::int64_t item) const;
  void start_threads();
  void prefetch();
  Slot* claim_next();
  Slot* find(std::int64_t item);
  Slot* make_room();
  bool is_done(std::int64_t item) const;
  void mark_done(std::int64_t item);
  // Unlocks while it works. What it throws is kept in the slot for acquire().
  void fill(Slot& slot, std::int64_t item, std::unique_lock<std::mutex>& lock);
  Shape record_shape() const;  // of x
  std::int64_t prepare(const Batch& batch, std::int64_t item);
  void prepare_record(const Batch& batch, std::int64_t row, std::int64_t record,
                      std::int64_t epoch) const;
  void set_label(const Batch& batch, std::int64_t row, std::int64_t record) const;
  const Batch& acquire(std::int64_t item, const std::string& name);

  const std::shared_ptr<const Dataset> dataset;
  const std::shared_ptr<const Preprocess> preprocess;
  const LoaderOptions options;
  const std::int64_t lanes;           // virtual ranks of the block
  const std::int64_t items_per_step;  // lanes * A
  const std::int64_t rows;            // B
  const std::int64_t items;           // in all
  ReadingOrder reading;

  Buffer memory;
  std::size_t bytes = 0;  // of a batch
  std::vector<Slot> slots;
  std::vector<bool> done;   // ring over items [base, base + done.size())
  std::int64_t base = 0;    // the first item that is not done
  std::int64_t cursor = 0;  // no item before it is unclaimed
  bool stopping = false;
  double waited = 0;
  mutable std::mutex mutex;
  std::condition_variable claimable;  // a slot or an item became free
  std::condition_variable prepared;   // a slot became ready, or free
  std::vector<std::thread> threads;
};

Loader::Impl::Impl(std::shared_ptr<const Dataset> data, std::shared_ptr<const Preprocess> steps,
                   const LoaderOptions& given)
    : dataset(std::move(data)),
      preprocess(std::move(steps)),
      options((check_options(given), given)),
      lanes(given.end_virtual_rank - given.first_virtual_rank),
      items_per_step(lanes * given.accumulate_steps),
      rows(given.global_batch / (std::int64_t{given.virtual_ranks} * given.accumulate_steps)),
      items(std::max<std::int64_t>(given.last_step - given.first_step, 0) * items_per_step),
      reading(dataset, given.window_shards, given.seed, given.shuffle,
              first_position(given.last_step)) {
  make_slots();
  if (items > 0) reading.advance(first_position(options.first_step), -1);
}

// Counted over all epochs.
std::int64_t Loader::Impl::first_position(std::int64_t step) const {
  const std::int64_t steps = steps_per_epoch(dataset->size(), options.global_batch);
  return step / steps * dataset->size() + step % steps * options.global_batch;
}

std::int64_t Loader::Impl::step_of(std::int64_t item) const {
  return options.first_step + item / items_per_step;
}

Loader::Impl::~Impl() {
  {
    const std::lock_guard lock(mutex);
    stopping = true;
  }
  claimable.notify_all();
  for (std::thread& thread : threads) thread.join();
}

Shape Loader::Impl::record_shape() const {
  if (options.vocabulary == 0) return preprocess->output_shape();
  if (!holds_tokens(*dataset)) fail_internal("loader", dataset->name(), " holds no tokens");
  return {dataset->record_shape()[0] - 1};
}

void Loader::Impl::make_slots() {
  const bool tokens = options.vocabulary > 0;
  Shape x{rows};
  for (const std::int64_t dim : record_shape()) x.push_back(dim);
  const Shape labels = tokens ? x : Shape{rows};
  const DType x_type = tokens ? DType::i32 : DType::f32;
  const DType label_type = tokens || options.integer_labels ? DType::i32 : DType::f32;
  const std::size_t x_bytes = align_up(Tensor{nullptr, x, x_type}.bytes());
  const std::size_t label_bytes = align_up(Tensor{nullptr, labels, label_type}.bytes());
  bytes = x_bytes + label_bytes + align_up(static_cast<std::size_t>(rows) * 4);
  const std::int64_t ahead = std::max(options.prefetch_batches, 1);
  const bool whole_step = static_cast<std::size_t>(items_per_step) <= kStepBytes / bytes;
  const std::int64_t count = std::min((whole_step ? items_per_step : lanes) + ahead, items);
  memory = pinned(Buffer(static_cast<std::size_t>(count) * bytes), options.device);
  slots.resize(static_cast<std::size_t>(count));
  std::byte* at = memory.data();
  for (Slot& slot : slots) {
    slot.batch.x = {at, x, x_type};
    slot.batch.labels = {at + x_bytes, labels, label_type};
    slot.batch.weight = {at + x_bytes + label_bytes, Shape{rows}, DType::f32};
    slot.batch.whole = {at, bytes};
    at += bytes;
  }
  done.resize(static_cast<std::size_t>(2 * items_per_step + count));
}

void Loader::Impl::start_threads() {
  for (int i = 0; i < options.threads; ++i) threads.emplace_back([this] { prefetch(); });
}

void Loader::Impl::prefetch() {
  std::unique_lock lock(mutex);
  while (!stopping) {
    Slot* slot = claim_next();
    if (slot == nullptr) {
      claimable.wait(lock);
    } else {
      fill(*slot, cursor, lock);
    }
  }
}

// A free slot for the item at `cursor`, or nullptr when there is nothing to do now.
Slot* Loader::Impl::claim_next() {
  const std::int64_t end = std::min(items, base + static_cast<std::int64_t>(done.size()));
  while (cursor < end && (is_done(cursor) || find(cursor) != nullptr)) ++cursor;
  return cursor < end ? find(-1) : nullptr;
}

Slot* Loader::Impl::find(std::int64_t item) {
  for (Slot& slot : slots) {
    if (slot.item == item) return &slot;
  }
  return nullptr;
}

// A free slot, or that of the prepared item furthest ahead, which will be prepared once more.
Slot* Loader::Impl::make_room() {
  if (Slot* slot = find(-1)) return slot;
  Slot* furthest = nullptr;
  for (Slot& slot : slots) {
    if (slot.state != State::ready) continue;
    if (furthest == nullptr || slot.item > furthest->item) furthest = &slot;
  }
  if (furthest != nullptr) cursor = std::min(cursor, furthest->item);
  return furthest;
}

bool Loader::Impl::is_done(std::int64_t item) const {
  return item < base || done[static_cast<std::size_t>(item) % done.size()];
}

void Loader::Impl::mark_done(std::int64_t item) {
  done[static_cast<std::size_t>(item) % done.size()] = true;
  while (done[static_cast<std::size_t>(base) % done.size()]) {
    done[static_cast<std::size_t>(base++) % done.size()] = false;
  }
}

void Loader::Impl::fill(Slot& slot, std::int64_t item, std::unique_lock<std::mutex>& lock) {
  slot.item = item;
  slot.state = State::filling;
  slot.error = nullptr;
  reading.advance(first_position(step_of(base)), first_position(step_of(item) + 1) - 1);
  lock.unlock();
  std::int64_t records = 0;
  std::exception_ptr error;
  try {
    records = prepare(slot.batch, item);
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  slot.batch.records = records;
  slot.error = error;
  slot.state = State::ready;
  prepared.notify_all();
}

std::int64_t Loader::Impl::prepare(const Batch& batch, std::int64_t item) {
  const std::int64_t step = step_of(item);
  const std::int64_t part = item % items_per_step / lanes;
  const std::int64_t rank = options.first_virtual_rank + item % lanes;
  const std::int64_t steps = steps_per_epoch(dataset->size(), options.global_batch);
  const std::int64_t epoch = step / steps;
  const std::int64_t begin =
      step % steps * options.global_batch + (rank * options.accumulate_steps + part) * rows;
  const std::int64_t records = std::clamp<std::int64_t>(dataset->size() - begin, 0, rows);
  const std::shared_ptr<const EpochOrder> order = reading.order(epoch);
  for (std::int64_t row = 0; row < records; ++row) {
    prepare_record(batch, row, order->record(begin + row), epoch);
  }
  // Zero is all bits zero in every type.
  const auto clear = [&](const Tensor& tensor) {
    const std::size_t row_bytes = tensor.bytes() / static_cast<std::size_t>(rows);
    std::byte* first = tensor.as<std::byte>();
    std::fill(first + static_cast<std::size_t>(records) * row_bytes, first + tensor.bytes(),
              std::byte{0});
  };
  for (const Tensor* tensor : {&batch.x, &batch.labels, &batch.weight}) clear(*tensor);
  std::fill_n(batch.weight.as<float>(), records, 1.0f);
  return records;
}

void Loader::Impl::prepare_record(const Batch& batch, std::int64_t row, std::int64_t record,
                                  std::int64_t epoch) const {
  const std::int64_t width = batch.x.numel() / rows;
  if (options.vocabulary > 0) {
    read_tokens(*dataset, record, options.vocabulary, batch.x.as<std::int32_t>() + row * width,
                batch.labels.as<std::int32_t>() + row * width);
    return;
  }
  preprocess->apply(*dataset, record, options.seed, epoch, options.augment,
                    batch.x.as<float>() + row * width);
  set_label(batch, row, record);
}

void Loader::Impl::set_label(const Batch& batch, std::int64_t row, std::int64_t record) const {
  const float label = dataset->label(record);
  if (options.label_end > 0 && !(label >= 0 && label < static_cast<float>(options.label_end) &&
                                 label == std::floor(label))) {
    fail_input(dataset->name(), "record ", record, " has label ", label,
               "; allowed are whole numbers from 0 to ", options.label_end - 1);
  }
  if (!options.integer_labels) {
    batch.labels.as<float>()[row] = label;
    return;
  }
  if (!(std::abs(label) <= 0x1p24f) || label != std::floor(label)) {
    fail_input(dataset->name(), "record ", record, " has label ", label,
               "; a class number was expected");
  }
  batch.labels.as<std::int32_t>()[row] = static_cast<std::int32_t>(label);
}

const Batch& Loader::Impl::acquire(std::int64_t item, const std::string& name) {
  std::unique_lock lock(mutex);
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    Slot* slot = find(item);
    if (slot == nullptr) {
      if (is_done(item)) fail_internal("loader", name, " was released before");
      if (item >= base + static_cast<std::int64_t>(done.size())) {
        fail_internal("loader", name, " is too far ahead of a batch that was never released");
      }
      slot = make_room();
      if (slot != nullptr) {
        fill(*slot, item, lock);
      } else if (std::all_of(slots.begin(), slots.end(),
                             [](const Slot& s) { return s.state == State::held; })) {
        fail_internal("loader", name, ": all ", slots.size(), " batches are held; release one");
      } else {
        prepared.wait(lock);
      }
      continue;
    }
    if (slot->state == State::held) fail_internal("loader", name, " is held already");
    if (slot->state == State::ready) {
      waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (slot->error) std::rethrow_exception(slot->error);
      slot->state = State::held;
      return slot->batch;
    }
    prepared.wait(lock);
  }
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const Preprocess> preprocess,
               const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(dataset), std::move(preprocess), options)) {
  impl_->start_threads();
}

Loader::~Loader() = default;

const Batch& Loader::acquire(std::int64_t step, int virtual_rank, int part) {
  const LoaderOptions& o = impl_->options;
  const std::string name = cat("step ", step, ", virtual rank ", virtual_rank, ", part ", part);
  if (step < o.first_step || step >= o.last_step || virtual_rank < o.first_virtual_rank ||
      virtual_rank >= o.end_virtual_rank || part < 0 || part >= o.accumulate_steps) {
    fail_internal("loader", name, " lies outside of what was announced");
  }
  const std::int64_t item = (step - o.first_step) * impl_->items_per_step + part * impl_->lanes +
                            (virtual_rank - o.first_virtual_rank);
  return impl_->acquire(item, name);
}

void Loader::release(const Batch& batch) {
  {
    const std::lock_guard lock(impl_->mutex);
    const auto slot = std::find_if(impl_->slots.begin(), impl_->slots.end(), [&](const Slot& s) {
      return &s.batch == &batch && s.state == State::held;
    });
    if (slot == impl_->slots.end()) fail_internal("loader", "releases a batch that is not held");
    impl_->mark_done(slot->item);
    slot->item = -1;
    slot->state = State::free;
  }
  impl_->claimable.notify_one();
  impl_->prepared.notify_all();
}

std::int64_t Loader::steps_per_epoch(std::int64_t records, std::int64_t global_batch) {
  return (records + global_batch - 1) / global_batch;
}

std::int64_t Loader::records_in_step(std::int64_t records, std::int64_t global_batch,
                                     std::int64_t step) {
  const std::int64_t begin = step % steps_per_epoch(records, global_batch) * global_batch;
  return std::min(global_batch, records - begin);
}

std::size_t Loader::memory_bytes() const {
  return impl_->memory.size();
}

std::size_t Loader::batch_bytes() const {
  return impl_->bytes;
}

double Loader::seconds_waited() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->waited;
}

}  // namespace peal
