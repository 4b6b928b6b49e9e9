#include "core/graph/plan.h"

#include <cstdint>
#include <span>
#include <utility>

#include "core/base/error.h"
#include "core/graph/plan_builder.h"
#include "core/graph/replay.h"

namespace peal {

namespace {

template <typename Named>
Named& find(std::vector<Named>& all, const char* kind, const std::string& name) {
  for (Named& one : all)
    if (one.name == name) return one;
  std::vector<std::string> names;
  for (const Named& one : all) names.push_back(one.name);
  fail_internal(cat(kind, " \"", name, "\""),
                "the plan has none of that name; it has: ", join(names));
}

void run_calls(Run& run, std::span<const PlanCall> calls) {
  for (const PlanCall& call : calls) {
    run.enter(call.op, call.uses);
    call.function(run);
  }
}

// What the call must leave as it is, byte by byte.
std::vector<std::byte> read_by(Stream& s, const Program& program, const PlanCall& call) {
  std::vector<std::byte> all;
  for (const int used : call.reads) {
    const Tensor& tensor = program.tensors[static_cast<std::size_t>(used)];
    const std::size_t bytes = tensor.layout == nullptr ? tensor.bytes() : layout_bytes(tensor);
    if (tensor.data == nullptr || bytes == 0) continue;
    const std::size_t begin = all.size();
    all.resize(begin + bytes);
    copy(s, all.data() + begin, tensor.as<std::byte>(), bytes);
  }
  s.synchronize();
  return all;
}

// A list of calls, plain or recorded.
struct Replayed {
  const char* name;
  RecordingsByAddress kept{kMostRecorded};
  bool ran = false;                              // once, plainly: libraries allocate at first use
  std::vector<Recording>* recordings = nullptr;  // of the pass at hand; nullptr: plain
};

}  // namespace

struct Plan::Impl {
  Impl(std::unique_ptr<Program> compiled, Device device, const PlanOptions& options)
      : program(std::move(compiled)),
        pass(device),
        record(options.record),
        check_reads(options.check_reads) {
    addresses.reserve(program->inputs.size() + 3);
    cut({});
  }

  std::unique_ptr<Program> program;
  PassMemory pass;
  std::byte* gradients = nullptr;
  const bool record, check_reads;
  Replayed forward{"forward"}, backward{"backward"}, apply{"apply slots"};
  std::vector<CallSegment> segments;  // of backward
  std::vector<const void*> addresses;

  void place(const std::vector<Program::Bound>& bound, std::byte* base) {
    for (const auto& [tensor, offset] : bound)
      program->tensors[static_cast<std::size_t>(tensor)].data =
          base == nullptr ? nullptr : base + offset;
  }

  void use_gradients(std::byte* base) {
    if (base == gradients) return;
    gradients = base;
    place(program->gradients, base);
  }

  const Tensor& tensor(int index) const {
    return program->tensors[static_cast<std::size_t>(index)];
  }

  void cut(std::span<const std::size_t> bounds) {
    std::vector<std::size_t> bytes_final;
    for (const PlanCall& call : program->backward) bytes_final.push_back(call.bytes_final);
    segments = cut_calls(bytes_final, bounds);
    backward.kept.clear();
  }

  void forget_recordings() {
    for (Replayed* each : {&forward, &backward, &apply}) each->kept.clear();
  }

  // A pass over the list begins. Recordings hold what the list's calls get from outside: addresses,
  // and the stream with its workspace.
  void begin(Stream& s, Replayed& list, std::byte* base) {
    list.recordings = nullptr;
    if (!record || !std::exchange(list.ran, true)) return;
    const bool cpu = s.device().kind == Device::Kind::cpu;
    addresses.assign({s.handle(), cpu ? nullptr : s.workspace(), base});
    for (const Program::Input& input : program->inputs) addresses.push_back(input.data);
    list.recordings = &list.kept.at(addresses);
  }

  // The n-th piece of the list: work(run), or what is recorded of it. Recorded work has the tensors
  // as they are now.
  template <typename Work>
  void enqueue(Stream& s, const Replayed& list, std::size_t n, const Work& work) {
    if (list.recordings == nullptr) {
      Run run = start(s, program->tensors.data());
      return work(run);
    }
    if (n == list.recordings->size()) {
      const auto recorded = [this, work, tensors = program->tensors, what = list.name](Stream& on) {
        Run run = start(on, tensors.data());
        try {
          work(run);
        } catch (const Error& error) {
          throw Error(error.kind(), error.where(),
                      cat(error.message(), "; in ", run.op() ? *run.op() : "no op",
                          " of a recorded ", what));
        }
      };
      list.recordings->emplace_back(s, cat(list.name, " ", n), recorded);
    }
    (*list.recordings)[n].replay(s);
  }

  Run start(Stream& s, const Tensor* tensors) const {
    return {s, pass.draws(), pass.loss_scale(), tensors, program->bases.data()};
  }
};

Plan::Plan(const Graph& graph, const ParameterTable& table, Device device, bool training,
           const PlanOptions& options)
    : impl_(new Impl(PlanBuilder(graph, table, device, training, options).build(), device,
                     options)) {}

Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;

void Plan::bind(std::byte* parameters, std::byte* states) {
  impl_->place(impl_->program->parameters, parameters);
  impl_->place(impl_->program->states, states);
  impl_->forget_recordings();
}

void Plan::set_gradient_bounds(std::vector<std::size_t> bounds) {
  impl_->cut(bounds);
}

void Plan::bind_loss_factor(const Tensor& factor) {
  impl_->pass.multiply_loss_scale_by(factor);
}

void Plan::set_input(const std::string& name, const Tensor& tensor) {
  Program& program = *impl_->program;
  Program::Input& input = find(program.inputs, "input", name);
  if (tensor.shape != input.shape || tensor.dtype != input.dtype)
    fail_input("input \"" + name + "\"", "wants ", name_of(input.dtype), " ", input.shape, ", got ",
               name_of(tensor.dtype), " ", tensor.shape);
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % kAlignment != 0)
    fail_internal("input \"" + name + "\"", "memory is not aligned to ", kAlignment, " bytes");
  input.data = tensor.data;
  for (const int view : input.tensors)
    program.tensors[static_cast<std::size_t>(view)].data = tensor.data;
}

Tensor Plan::output(const std::string& name) const {
  return impl_->tensor(find(impl_->program->outputs, "output", name).tensor);
}

void Plan::forward(Stream& s, const PassKey& key, std::byte* gradients, float loss_scale) {
  Program& program = *impl_->program;
  for (const Program::Input& input : program.inputs)
    if (input.data == nullptr) fail_internal("input \"" + input.name + "\"", "was never set");
  if (gradients != nullptr) impl_->use_gradients(gradients);
  impl_->pass.set_key(s, key);
  if (!program.backward.empty()) impl_->pass.set_loss_scale(s, loss_scale);
  impl_->begin(s, impl_->forward, gradients);
  impl_->enqueue(s, impl_->forward, 0, [&program, to_slots = gradients != nullptr](Run& run) {
    run_calls(run, program.forward);
    if (to_slots) run_calls(run, program.to_slots);
  });
}

void Plan::backward(Stream& s, std::byte* gradients, const OnGradientReady& on_gradient_ready) {
  const std::span<const PlanCall> calls = impl_->program->backward;
  if (calls.empty()) fail_internal("plan", "backward of a plan that was not compiled for training");
  impl_->use_gradients(gradients);
  impl_->begin(s, impl_->backward, gradients);
  const auto tell = [&](std::size_t bytes_final) {
    if (bytes_final > 0 && on_gradient_ready) on_gradient_ready(bytes_final);
  };
  if (impl_->backward.recordings == nullptr) {
    Run run = impl_->start(s, impl_->program->tensors.data());
    for (const PlanCall& call : calls) {
      std::vector<std::byte> before;
      if (impl_->check_reads) before = read_by(s, *impl_->program, call);
      run_calls(run, {&call, 1});
      if (impl_->check_reads && read_by(s, *impl_->program, call) != before)
        fail_internal(call.op, "writes what it may only read");
      tell(call.bytes_final);
    }
    return;
  }
  std::size_t n = 0;
  for (const CallSegment& segment : impl_->segments) {
    const auto part = calls.subspan(segment.begin, segment.end - segment.begin);
    impl_->enqueue(s, impl_->backward, n++, [part](Run& run) { run_calls(run, part); });
    tell(segment.bytes_final);
  }
}

void Plan::apply_slots(Stream& s, std::byte* gradients) {
  const std::span<const PlanCall> calls = impl_->program->apply;
  if (calls.empty()) return;
  impl_->use_gradients(gradients);
  impl_->begin(s, impl_->apply, gradients);
  impl_->enqueue(s, impl_->apply, 0, [calls](Run& run) { run_calls(run, calls); });
}

std::size_t Plan::recorded_forward() const {
  return impl_->forward.kept.size();
}

std::size_t Plan::recorded_backward() const {
  return impl_->backward.kept.size();
}

float Plan::slot_value(Stream& s, const std::string& name) const {
  const Tensor& slot = impl_->tensor(find(impl_->program->slots, "slot", name).value);
  float value = 0;
  copy(s, reinterpret_cast<std::byte*>(&value), slot.as<std::byte>(), sizeof(value));
  s.synchronize();
  return value;
}

std::vector<std::string> Plan::backward_calls() const {
  std::vector<std::string> names;
  for (const PlanCall& call : impl_->program->backward) names.push_back(call.op);
  return names;
}

PlanMemory Plan::memory() const {
  const Program& program = *impl_->program;
  return {program.activations.size(), program.scratch.size(), program.activations_kept};
}

}  // namespace peal
