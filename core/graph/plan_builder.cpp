#include "core/graph/plan_builder.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/graph/graph_impl.h"
#include "core/kernels/layout.h"

namespace peal {
namespace {

using Kind = Graph::ValueInfo::Kind;

std::size_t bytes_of(const Tensor& tensor) {
  return tensor.layout == nullptr ? tensor.bytes() : layout_bytes(tensor);
}

bool has_padded_rows(const Tensor& tensor) {
  return tensor.layout != nullptr && tensor.layout->row_pitch > 0;
}

std::map<std::string, std::size_t> offsets(const std::vector<ArenaEntry>& entries) {
  std::map<std::string, std::size_t> result;
  for (const ArenaEntry& entry : entries) result[entry.name] = entry.offset;
  return result;
}

std::size_t offset_of(const std::map<std::string, std::size_t>& offsets, const std::string& name) {
  const auto found = offsets.find(name);
  if (found == offsets.end())
    fail_internal("plan", "\"", name, "\" is not in the parameter table: it is another graph's");
  return found->second;
}

}  // namespace

PlanBuilder::PlanBuilder(const Graph& graph, const ParameterTable& table, Device device,
                         bool training, const PlanOptions& options)
    : impl_(graph.impl()),
      table_(table),
      device_(device),
      training_(training),
      outputs_(options.outputs),
      recompute_(training && options.recompute),
      share_(options.share),
      ops_add_(options.ops_add),
      precision_(options.precision),
      deterministic_(options.deterministic),
      choose_(options.choose),
      pad_rows_to_(options.pad_rows_to),
      kernels_(peal::kernels(device)),
      flow_(graph),
      steps_(make_steps(graph, flow_, kernels_, training, options.fuse)),
      places_(impl_.values.size()),
      parameter_offsets_(offsets(table.parameters)),
      state_offsets_(offsets(table.states)),
      program_(std::make_unique<Program>()) {
  if (training && impl_.loss < 0)
    fail_input("plan", "a graph without a loss cannot be trained; see Graph::set_loss");
  if (!impl_.slots.empty() && table.slots.size() != impl_.slots.size())
    fail_internal("plan", "the parameter table is another graph's");
}

std::unique_ptr<Program> PlanBuilder::build() {
  add_entry({0}, DType::u8, nullptr, add_storage(Storage::Kind::arena, 0));  // the empty tensor
  scratch_storage_ = add_storage(Storage::Kind::scratch, 0);
  bind_values();
  calls_ = &program_->forward;
  for (const PlanStep& step : steps_) compile(step);
  for (const auto& [name, value] : impl_.outputs) {
    if (!outputs_) break;
    const int kept = value_entry(value, OpCompiler::Order::row_major, DType::f32);
    storages_[static_cast<std::size_t>(entry(kept).storage)].kept = true;
    program_->outputs.push_back({name, kept});
  }
  compile_slots();
  if (training_) {
    seed_backward();
    arrange_backward();
    mark_final();
  }
  if (recompute_) program_->activations_kept = bytes_if_all_is_kept();
  mark_lives(recompute_);
  share_gradients();
  drop_copies();
  resolve();
  return std::move(program_);
}

// ---- Tensors -------------------------------------------------------------------------------

int PlanBuilder::add_storage(Storage::Kind kind, std::size_t bytes, std::size_t place) {
  storages_.push_back({kind, bytes, place});
  return static_cast<int>(storages_.size()) - 1;
}

int PlanBuilder::add_entry(const Shape& shape, DType dtype, const Layout* layout, int storage) {
  const int index = static_cast<int>(entries_.size());
  entries_.push_back({{nullptr, shape, dtype, device_, layout}, storage, index});
  return index;
}

int PlanBuilder::add_tensor(const Shape& shape, DType dtype, const Layout* layout) {
  const Tensor tensor{nullptr, shape, dtype, device_, layout};
  return add_entry(shape, dtype, layout, add_storage(Storage::Kind::arena, bytes_of(tensor)));
}

int PlanBuilder::add_memory(const Shape& shape, DType dtype, const Layout* layout) {
  const int index = add_tensor(shape, dtype, layout);
  storage_of(index).memory = true;
  return index;
}

int PlanBuilder::view(int of, const Shape& shape) {
  const Entry original = entry(of);
  if (original.tensor.shape == shape) return of;
  const Layout* layout = original.tensor.layout;
  const bool lies_so = layout == nullptr ||
                       (has_padded_rows(original.tensor) && shape[-1] == original.tensor.shape[-1]);
  if (!lies_so || original.tensor.numel() != shape.numel())
    fail_internal("plan", "no view of shape ", shape, " of shape ", original.tensor.shape);
  const int index = add_entry(shape, original.tensor.dtype, layout, original.storage);
  entry(index).base = original.base;
  return index;
}

int PlanBuilder::storage_index(int index) const {
  const int base = entries_[static_cast<std::size_t>(index)].base;
  return entries_[static_cast<std::size_t>(base)].storage;
}

PlanBuilder::Storage& PlanBuilder::storage_of(int index) {
  return storages_[static_cast<std::size_t>(storage_index(index))];
}

PlanBuilder::Place& PlanBuilder::place(int value) {
  return places_[static_cast<std::size_t>(impl_.root(value))];
}

// What comes from outside has its place before any op is compiled.
void PlanBuilder::bind_values() {
  for (std::size_t v = 0; v < impl_.values.size(); ++v) {
    const Graph::ValueInfo& info = impl_.values[v];
    if (info.kind == Kind::computed || info.root != static_cast<int>(v)) continue;
    int storage = 0;
    if (info.kind == Kind::input) {
      storage = add_storage(Storage::Kind::input, 0, program_->inputs.size());
      program_->inputs.push_back({info.name, info.shape, info.dtype, {}});
    } else if (info.kind == Kind::parameter) {
      storage = add_storage(Storage::Kind::parameter, 0, offset_of(parameter_offsets_, info.name));
    } else {
      storage = add_storage(Storage::Kind::state, 0, offset_of(state_offsets_, info.name));
    }
    places_[v].entry = add_entry(info.shape, info.dtype, nullptr, storage);
  }
}

int PlanBuilder::output_entry(int value, const Form& form) {
  Place& at = place(value);
  if (at.entry == 0) at.entry = add_tensor(impl_.root_info(value).shape, form.dtype, form.layout);
  return at.entry;
}

Form PlanBuilder::form_of(int index) {
  return {entry(index).tensor.layout, entry(index).tensor.dtype};
}

PlanBuilder::Place& PlanBuilder::place_to_read(int value) {
  Place& at = place(value);
  if (at.entry == 0) fail_internal("plan", "a value is read before its op made it");
  if (at.is_gradient) fail_internal("plan", "a value is read where its gradient lies");
  return at;
}

int PlanBuilder::value_entry(int value, OpCompiler::Order order, DType dtype) {
  const Place& at = place_to_read(value);
  const Shape& shape = impl_.values[static_cast<std::size_t>(value)].shape;
  const Tensor made = entry(at.entry).tensor;
  const bool floats = made.dtype == DType::f32 || made.dtype == stored_type(precision_);
  if (!floats || made.dtype == dtype) {
    if (made.layout == nullptr) return view(at.entry, shape);
    // An alias of another shape cannot be read in a layout made for the shape of its root.
    if (has_padded_rows(made)) {
      const bool same_rows = shape.rank() > 0 && shape[-1] == made.shape[-1];
      if (order == OpCompiler::Order::padded_rows && same_rows) return view(at.entry, shape);
    } else if (order == OpCompiler::Order::any && shape == made.shape) {
      return at.entry;
    }
  }
  return view(value_copy(value, at.entry, {nullptr, dtype}), shape);
}

int PlanBuilder::value_entry_in(int value, const Layout* layout, DType dtype) {
  const Place& at = place_to_read(value);
  const Shape& shape = impl_.values[static_cast<std::size_t>(value)].shape;
  const Tensor made = entry(at.entry).tensor;
  if (made.shape == shape) {
    if (made.layout == layout && made.dtype == dtype) return at.entry;
    return value_copy(value, at.entry, {layout, dtype});
  }
  const int rows = value_entry(value, OpCompiler::Order::row_major, made.dtype);
  return value_copy(value, rows, {layout, dtype});
}

// One that is there already, or a new one of `from`. A layout belongs to a shape, and what is in
// rows has the shape of the value's root.
int PlanBuilder::value_copy(int value, int from, const Form& form) {
  std::vector<int>& copies = place(value).copies;
  for (const int copy : copies)
    if (form_of(copy) == form) return copy;
  const int copy = add_tensor(entry(from).tensor.shape, form.dtype, form.layout);
  copies.push_back(copy);
  add_call(make_reorder(from, copy));
  storage_of(copy).written = true;
  return copy;
}

// Of a computed value it gets its memory when all that adds to it is there (settle).
int PlanBuilder::gradient_entry(int value) {
  Place& at = place(value);
  if (at.gradient != 0) return at.gradient;
  const Graph::ValueInfo& info = impl_.root_info(value);
  if (info.kind == Kind::parameter) {
    const int storage =
        add_storage(Storage::Kind::gradient, 0, offset_of(parameter_offsets_, info.name));
    at.gradient = add_entry(info.shape, DType::f32, nullptr, storage);
  } else {
    const Tensor made = entry(at.entry).tensor;
    at.gradient = add_entry(info.shape, made.dtype, made.layout, -1);
  }
  return at.gradient;
}

// ---- Forward -------------------------------------------------------------------------------

PlanCall PlanBuilder::make_call(const std::string& op, const std::vector<Ref>& uses,
                                CallFunction function) {
  PlanCall call{
      .op = op, .function = std::move(function), .uses = {}, .block = block_, .writes = {}};
  for (const Ref ref : uses)
    if (ref) call.uses.push_back(entry(ref.index).base);
  return call;
}

PlanCall PlanBuilder::make_reorder(int from, int to) {
  const std::shared_ptr<Reorder> kernel =
      kernels_.make_reorder(entry(to).tensor.shape, form_of(from), form_of(to));
  scratch_bytes_ = std::max(scratch_bytes_, kernel->scratch_bytes());
  const Ref x{from}, y{to};
  Ref scratch;
  if (kernel->scratch_bytes() > 0)
    scratch = {add_entry({static_cast<std::int64_t>(kernel->scratch_bytes())}, DType::u8, nullptr,
                         scratch_storage_)};
  PlanCall call = make_call("reorder", {x, y, scratch},
                            [=](Run& r) { kernel->run(r.stream, r[x], r[y], r[scratch]); });
  call.writes = {entry(to).base};
  return call;
}

// What an op makes, no other op writes, but for a loss its gradient over it (loss_may_write_over).
void PlanBuilder::add_call(PlanCall call) {
  call.writes.clear();
  for (const int used : call.uses) {
    const Storage& storage = storage_of(used);
    const bool own = entry(used).storage >= static_cast<int>(step_storages_);
    if (own && storage.kind == Storage::Kind::arena && !storage.written)
      call.writes.push_back(used);
  }
  calls_->push_back(std::move(call));
}

void PlanBuilder::add_backward_call(PlanCall call) {
  const auto in_place = [&](int used) {
    return std::find(step_in_place_.begin(), step_in_place_.end(), used) != step_in_place_.end();
  };
  for (const int used : call.uses)
    if (entry(used).target >= 0 || in_place(used) ||
        (storage_index(used) >= 0 && storage_of(used).memory))
      call.writes.push_back(used);
  backward_calls_->push_back(std::move(call));
}

void PlanBuilder::compile(const PlanStep& step) {
  block_ = step.node->block;
  step_storages_ = storages_.size();
  step_backward_.emplace_back();
  backward_calls_ = &step_backward_.back();
  step_targets_.assign(step.node->inputs.size(), 0);
  step_in_place_.clear();
  OpCompiler compiler(*this, step);
  step.compile(compiler);
  for (std::size_t i = 0; i < step.node->inputs.size(); ++i)
    if (compiler.needs_grad(static_cast<int>(i)) && step_targets_[i] == 0)
      fail_internal(step.op, "has no gradient for input ", i);
  for (const int output : step.outputs)
    if (place(output).entry == 0) fail_internal(step.op, "never asked for its output");
}

void PlanBuilder::compile_slots() {
  block_ = -1;
  for (std::size_t i = 0; i < impl_.slots.size(); ++i) {
    const Graph::Impl::Slot& slot = impl_.slots[i];
    const int value = value_entry(slot.value, OpCompiler::Order::row_major, DType::f32);
    storages_[static_cast<std::size_t>(entry(value).storage)].kept = true;
    const Shape shape = entry(value).tensor.shape;
    slot_entry_ = add_entry(shape, DType::f32, nullptr,
                            add_storage(Storage::Kind::gradient, 0, table_.slots[i].offset));
    program_->slots.push_back({slot.name, value, slot_entry_});
    Kernels& k = kernels_;
    const Ref from{value}, to{slot_entry_};
    program_->to_slots.push_back(make_call("slot " + slot.name, {from, to},
                                           [=, &k](Run& r) { k.copy(r.stream, r[from], r[to]); }));
  }
  for (std::size_t i = 0; i < impl_.slots.size(); ++i) {
    if (!impl_.slots[i].apply) continue;
    calls_ = &program_->apply;
    slot_entry_ = program_->slots[i].slot;
    PlanStep step{"slot " + impl_.slots[i].name, 0, nullptr, {}, impl_.slots[i].apply, nullptr};
    OpCompiler compiler(*this, step);
    step.compile(compiler);
  }
}

// ---- Backward ------------------------------------------------------------------------------

// d(loss)/d(loss), and zeros for parameters that nothing between them and the loss will write.
void PlanBuilder::seed_backward() {
  std::vector<Ref> uses;
  Kernels& k = kernels_;
  Ref seed;
  std::shared_ptr<Reorder> convert;  // where the loss is stored as a half
  if (flow_.flows(impl_.loss)) {
    seed = {gradient_entry(impl_.loss)};
    entry(seed.index).storage =
        add_storage(Storage::Kind::arena, bytes_of(entry(seed.index).tensor));
    convert = kernels_.make_reorder({1}, {}, form_of(seed.index));
    uses.push_back(seed);
  }
  std::vector<Ref> zeros;
  for (std::size_t v = 0; v < impl_.values.size(); ++v) {
    const int value = static_cast<int>(v);
    if (impl_.values[v].kind != Kind::parameter || impl_.root(value) != value) continue;
    if (!flow_.flows(value)) zeros.push_back({gradient_entry(value)});
  }
  uses.insert(uses.end(), zeros.begin(), zeros.end());
  PlanCall call = make_call("loss backward", uses, [=, &k](Run& r) {
    if (seed) convert->run(r.stream, r.loss_scale, r[seed], {});
    for (const Ref zero : zeros) k.fill(r.stream, r[zero], 0);
  });
  call.writes = call.uses;
  program_->backward.push_back(std::move(call));
}

void PlanBuilder::arrange_backward() {
  if (recompute_) find_what_blocks_own();
  int block = -1;
  for (auto calls = step_backward_.rbegin(); calls != step_backward_.rend(); ++calls) {
    if (!calls->empty() && calls->front().block != block) {
      block = calls->front().block;
      if (recompute_ && block >= 0)
        for (PlanCall& call : calls_made_again(block))
          program_->backward.push_back(std::move(call));
    }
    for (PlanCall& call : *calls) {
      std::vector<int> targets;
      for (const int used : call.uses)
        if (entry(used).target >= 0 &&
            std::find(targets.begin(), targets.end(), used) == targets.end())
          targets.push_back(used);
      const int number = static_cast<int>(program_->backward.size());
      program_->backward.push_back(std::move(call));
      for (const int target : targets) settle(target, number);
    }
  }
  for (const Place& at : places_)
    if (at.pending != 0 || (at.gradient != 0 && entry(at.gradient).storage < 0))
      fail_internal("plan", "an op asked for a gradient but never wrote it");
  leave_nothing_to_add();
}

// Ops that would have added something.
void PlanBuilder::leave_nothing_to_add() {
  const int nothing = add_storage(Storage::Kind::nothing, 0);
  const auto leave = [&](int more) {
    if (more != 0 && entry(more).storage == -1) entry(more).storage = nothing;
  };
  for (const Place& at : places_) leave(at.more);
  for (const Entry& each : entries_) leave(each.more);
}

// Whether the call that writes a part of a gradient adds what is there: if that lies alike and was
// there before the call, and not in the very place of the part unless the op may work so.
bool PlanBuilder::adds_sum(const Place& at, int target, int call) {
  const Entry& part = entry(target);
  const bool one_place = entry(at.gradient).storage >= 0;  // a parameter's
  return ops_add_ && part.more != 0 && at.sum != 0 && at.sum_call < call &&
         form_of(target) == form_of(at.gradient) && (part.in_place || !one_place);
}

// Decides where a consumer writes its part of a value's gradient, by the call of that number. The
// first one in the order of backward begins the sum; one that adds what is there writes the next
// sum; others, and ones of another layout or type, write to a temporary that is added. All sums of
// a parameter's gradient lie in its place, any other lies where the last of them does.
void PlanBuilder::settle(int target, int call) {
  Place& at = place(entry(target).target);
  const int gradient = gradient_entry(entry(target).target);
  const Tensor part = entry(target).tensor, whole = entry(gradient).tensor;
  if (entry(target).storage != -1)
    fail_internal(program_->backward.back().op, "writes one gradient in two calls");
  const int own = entry(gradient).storage;
  const bool first = at.sum == 0, adds = adds_sum(at, target, call);
  const bool same_form = form_of(target) == form_of(gradient);
  entry(target).storage = own >= 0 && same_form && (first || adds)
                              ? own
                              : add_storage(Storage::Kind::arena, bytes_of(part));
  const bool viewed = part.layout == nullptr || has_padded_rows(part);
  int ready = viewed ? view(target, whole.shape) : target;
  if (!same_form) {
    const int from = ready;
    ready = first && own >= 0 ? gradient : add_tensor(whole.shape, whole.dtype, whole.layout);
    program_->backward.push_back(make_reorder(from, ready));
  }
  if (adds) {
    entry(entry(target).more).storage = storage_index(at.sum);
    if (entry(target).in_place) shares_.push_back({at.sum, target, /*copy=*/false});
  }
  if (first || adds)
    at.sum = ready;
  else
    add_to_gradient(at, ready);
  at.sum_call = static_cast<int>(program_->backward.size()) - 1;
  if (--at.pending == 0) entry(gradient).storage = storage_index(at.sum);
}

// The last part is left to the op that made the value where that op asked for it.
void PlanBuilder::add_to_gradient(Place& at, int part) {
  if (ops_add_ && at.more != 0 && at.pending == 1) {
    entry(at.more).storage = entry(part).storage;
    return;
  }
  Kernels& k = kernels_;
  const Ref x{part}, y{at.sum};
  PlanCall call =
      make_call("accumulate", {x, y}, [=, &k](Run& r) { k.accumulate(r.stream, r[x], r[y]); });
  call.writes = {entry(at.sum).base};
  program_->backward.push_back(std::move(call));
}

// The table lists parameters in the order in which they become final, so what is final is always a
// head of the arena.
void PlanBuilder::mark_final() {
  std::map<std::string, int> final_calls;
  for (std::size_t v = 0; v < impl_.values.size(); ++v)
    if (impl_.values[v].kind == Kind::parameter)
      final_calls[impl_.values[v].name] = place(static_cast<int>(v)).sum_call;
  int call = -1;
  for (std::size_t p = 0; p < table_.parameters.size(); ++p) {
    call = std::max(call, final_calls[table_.parameters[p].name]);
    const bool last = p + 1 == table_.parameters.size();
    if (call >= 0)
      program_->backward[static_cast<std::size_t>(call)].bytes_final =
          last ? table_.gradient_bytes : table_.parameters[p + 1].offset;
  }
  if (call < 0) program_->backward.back().bytes_final = table_.gradient_bytes;
}

// ---- Memory --------------------------------------------------------------------------------

void PlanBuilder::mark_lives(bool recompute) {
  int time = 0;
  for (const auto* calls : {&program_->forward, &program_->backward, &program_->apply}) {
    const bool forward = calls == &program_->forward;
    for (const PlanCall& call : *calls) {
      if (call.again && !recompute) continue;
      for (const int used : call.uses) {
        Storage& storage = storages_[static_cast<std::size_t>(entry(used).storage)];
        const bool again = recompute && !forward && storage.block >= 0;
        (again ? storage.again : storage.life).add(time);
      }
      for (const int written : call.writes)
        if (!forward && !(call.copies && written == call.uses[1]))
          storage_of(written).changes.push_back(time);
      ++time;
    }
  }
  for (Storage& storage : storages_)
    if (storage.kept) storage.life.last = INT_MAX;
}

std::vector<MemoryPiece> PlanBuilder::pieces() {
  std::vector<MemoryPiece> pieces;
  for (const Storage& storage : storages_)
    if (storage.kind == Storage::Kind::arena && storage.life.last >= 0)
      pieces.push_back({storage.bytes, storage.life, storage.again});
  return pieces;
}

// The same calls without those that are made again.
std::size_t PlanBuilder::bytes_if_all_is_kept() {
  const std::vector<Storage> storages = storages_;
  const std::vector<Entry> entries = entries_;
  mark_lives(/*recompute=*/false);
  share_gradients();
  std::vector<MemoryPiece> all = pieces();
  storages_ = storages;
  entries_ = entries;
  return peal::place(all);
}

void PlanBuilder::resolve() {
  std::vector<MemoryPiece> placed = pieces();
  program_->activations = Buffer(peal::place(placed), device_);
  program_->scratch = Buffer(scratch_bytes_, device_);
  auto piece = placed.begin();
  for (Storage& storage : storages_)
    if (storage.kind == Storage::Kind::arena && storage.life.last >= 0)
      storage.place = (piece++)->offset;

  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const int index = static_cast<int>(i);
    Tensor tensor = entries_[i].tensor;
    const Storage& storage = storages_[static_cast<std::size_t>(entry(entries_[i].base).storage)];
    switch (storage.kind) {
      case Storage::Kind::arena:
        if (storage.life.last >= 0) tensor.data = program_->activations.data() + storage.place;
        break;
      case Storage::Kind::scratch:
        tensor.data = program_->scratch.data();
        break;
      case Storage::Kind::input:
        program_->inputs[storage.place].tensors.push_back(index);
        break;
      case Storage::Kind::parameter:
        program_->parameters.push_back({index, storage.place});
        break;
      case Storage::Kind::state:
        program_->states.push_back({index, storage.place});
        break;
      case Storage::Kind::gradient:
        program_->gradients.push_back({index, storage.place});
        break;
      case Storage::Kind::nothing:
        break;
    }
    program_->tensors.push_back(tensor);
    program_->bases.push_back(entries_[i].base);
  }
}

}  // namespace peal
