#include "core/graph/plan.h"

#include <cstdint>

#include "core/base/error.h"
#include "core/graph/plan_builder.h"

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

}  // namespace

struct Plan::Impl {
  std::unique_ptr<Program> program;
  Kernels& kernels;
  PassKey key;  // of the last forward: backward repeats its draws
  std::byte* gradients = nullptr;

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

  Run start(Stream& s, float loss_scale) const {
    return {s, key, loss_scale, program->tensors.data(), program->bases.data()};
  }
};

Plan::Plan(const Graph& graph, const ParameterTable& table, Device device, bool training,
           const PlanOptions& options)
    : impl_(new Impl{PlanBuilder(graph, table, device, training, options).build(),
                     kernels(device),
                     {},
                     nullptr}) {}

Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;

void Plan::bind(std::byte* parameters, std::byte* states) {
  impl_->place(impl_->program->parameters, parameters);
  impl_->place(impl_->program->states, states);
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

void Plan::forward(Stream& s, const PassKey& key, std::byte* gradients) {
  Program& program = *impl_->program;
  for (const Program::Input& input : program.inputs)
    if (input.data == nullptr) fail_internal("input \"" + input.name + "\"", "was never set");
  impl_->key = key;
  Run run = impl_->start(s, 0);
  for (const PlanCall& call : program.forward) {
    run.enter(call.op, call.uses);
    call.function(run);
  }
  if (gradients == nullptr) return;
  impl_->use_gradients(gradients);
  for (const Program::Slot& slot : program.slots)
    impl_->kernels.copy(s, impl_->tensor(slot.value), impl_->tensor(slot.slot));
}

void Plan::backward(Stream& s, float loss_scale, std::byte* gradients,
                    const OnGradientReady& on_gradient_ready) {
  if (impl_->program->backward.empty())
    fail_internal("plan", "backward of a plan that was not compiled for training");
  impl_->use_gradients(gradients);
  Run run = impl_->start(s, loss_scale);
  for (const PlanCall& call : impl_->program->backward) {
    run.enter(call.op, call.uses);
    call.function(run);
    if (call.bytes_final > 0 && on_gradient_ready) on_gradient_ready(call.bytes_final);
  }
}

void Plan::apply_slots(Stream& s, std::byte* gradients) {
  impl_->use_gradients(gradients);
  Run run = impl_->start(s, 0);
  for (const PlanCall& call : impl_->program->apply) {
    run.enter(call.op, call.uses);
    call.function(run);
  }
}

float Plan::slot_value(Stream& s, const std::string& name) const {
  const Tensor& slot = impl_->tensor(find(impl_->program->slots, "slot", name).value);
  float value = 0;
  copy(s, reinterpret_cast<std::byte*>(&value), slot.as<std::byte>(), sizeof(value));
  s.synchronize();
  return value;
}

PlanMemory Plan::memory() const {
  const Program& program = *impl_->program;
  return {program.activations.size(), program.scratch.size(), program.activations_kept};
}

}  // namespace peal
