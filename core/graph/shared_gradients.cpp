// Gradients that lie in the memory of what they are made from: of the same numbers, as both terms
// of a sum get them, until one of them is written; or of what a call that makes them works in place
// on. The rule (may_share) and the check behind it (check_sharing) are apart, so that an error in
// one is seen: the check follows what each piece of memory holds, call by call.
#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "core/graph/graph_impl.h"
#include "core/graph/plan_builder.h"

namespace peal {

// `with` and `of_gradient` are the tensors that lie, by now, in one memory with share.from and with
// share.gradient. Copies make a tree, so it is enough to look at pairs: while one lives, the other
// is not written, but for what it is made from itself.
bool PlanBuilder::may_share(const Share& share, const Storages& with,
                            const Storages& of_gradient) const {
  const auto storage = [&](int s) -> const Storage& {
    return storages_[static_cast<std::size_t>(s)];
  };
  const auto keeps_away = [&](int time, const Storage& other) {
    return other.life.first > time || other.latest().last < time;
  };
  const int from = storage_index(share.from), gradient = storage_index(share.gradient);
  const int made = storage(gradient).life.first;
  if (!share.copy && storage(from).latest().last > made) return false;
  for (const int a : with) {
    for (const int b : of_gradient) {
      if (a == from && b == gradient && storage(a).latest().last <= made) continue;
      for (const int time : storage(a).changes)
        if (!keeps_away(time, storage(b))) return false;
      for (const int time : storage(b).changes)
        if (!keeps_away(time, storage(a))) return false;
    }
  }
  return true;
}

// A step whose gradient is wanted, of which nobody reads what it made, makes the loss: from
// `input`, which lies at `index`. What is recorded later is compiled later, or merged with what is
// earlier. Earlier steps have read the input in forward; they do so again where their calls say it:
// in backward, or when a block's forward runs again.
bool PlanBuilder::loss_may_write_over(const PlanStep& step, int input, int index) const {
  const int value = impl_.root(step.node->inputs[static_cast<std::size_t>(input)]),
            loss = impl_.root(step.outputs[0]), storage = storage_index(index);
  const auto is = [&](int root) {
    return [this, root](int other) { return impl_.root(other) == root; };
  };
  const auto reads = [&](const Graph::Node& node, int root) {
    return std::any_of(node.inputs.begin(), node.inputs.end(), is(root));
  };
  const auto uses = [&](const PlanCall& call) {
    return std::any_of(call.uses.begin(), call.uses.end(),
                       [&](int used) { return storage_index(used) == storage; });
  };
  if (!share_ || step.outputs.size() > 1) return false;
  if (storages_[static_cast<std::size_t>(storage)].kind != Storage::Kind::arena) return false;
  const std::vector<int>& inputs = step.node->inputs;
  if (std::count_if(inputs.begin(), inputs.end(), is(value)) > 1) return false;
  for (std::size_t n = 0; n < impl_.nodes.size(); ++n)
    if (reads(impl_.nodes[n], loss) || (n > step.site && reads(impl_.nodes[n], value)))
      return false;
  for (const auto& [name, output] : impl_.outputs)
    if (outputs_ && is(value)(output)) return false;
  for (const Graph::Impl::Slot& slot : impl_.slots)
    if (is(value)(slot.value)) return false;
  for (const std::vector<PlanCall>& calls : step_backward_)
    if (std::any_of(calls.begin(), calls.end(), uses)) return false;
  if (!recompute_) return true;
  return step.node->block < 0 &&
         std::none_of(program_->forward.begin(), program_->forward.end(),
                      [&](const PlanCall& call) { return call.block >= 0 && uses(call); });
}

void PlanBuilder::share_gradients() {
  std::vector<Storages> together(storages_.size());
  Storages place(storages_.size());
  std::iota(place.begin(), place.end(), 0);
  for (const int s : place) together[static_cast<std::size_t>(s)] = {s};
  for (const Share& share : shares_) {
    if (!share_) break;
    const int from = storage_index(share.from), gradient = storage_index(share.gradient);
    const Storage &source = storages_[static_cast<std::size_t>(from)],
                  &made = storages_[static_cast<std::size_t>(gradient)];
    if (source.kind != Storage::Kind::arena || made.kind != Storage::Kind::arena) continue;
    const int to = place[static_cast<std::size_t>(from)],
              old = place[static_cast<std::size_t>(gradient)];
    Storages &all = together[static_cast<std::size_t>(to)],
             &more = together[static_cast<std::size_t>(old)];
    if (to == old || source.bytes != made.bytes || !may_share(share, all, more)) continue;
    for (const int s : more) place[static_cast<std::size_t>(s)] = to;
    all.insert(all.end(), more.begin(), more.end());
    more.clear();
  }
  check_sharing(place);
  for (std::size_t s = 0; s < place.size(); ++s) {
    if (place[s] == static_cast<int>(s)) continue;
    Life& life = storages_[static_cast<std::size_t>(place[s])].latest();
    life.last = std::max(life.last, storages_[s].life.last);
    storages_[s].life = {};
  }
  for (Entry& each : entries_)
    if (each.storage >= 0) each.storage = place[static_cast<std::size_t>(each.storage)];
}

// Numbers each content that a call writes, and demands that whoever reads a tensor finds the
// content that was written to it last.
void PlanBuilder::check_sharing(const Storages& place) const {
  std::vector<int> content(storages_.size()), held(storages_.size());  // 0: not written yet
  int newest = 0;
  const auto at = [](auto& all, int index) -> auto& {
    return all[static_cast<std::size_t>(index)];
  };
  const auto check = [&](const PlanCall& call, int tensor) {
    const int s = storage_index(tensor);
    if (at(content, s) != 0 && at(content, s) != at(held, at(place, s)))
      fail_internal(call.op, "reads a tensor in whose memory another one was written");
  };
  for (const auto* calls : {&program_->forward, &program_->backward, &program_->apply}) {
    for (const PlanCall& call : *calls) {
      for (const int used : call.uses) check(call, call.copies ? call.uses[0] : used);
      for (const int written : call.writes) {
        const int s = storage_index(written);
        at(content, s) = call.copies ? at(content, storage_index(call.uses[0])) : ++newest;
        at(held, at(place, s)) = at(content, s);
      }
    }
  }
}

// Calls that would copy memory to itself, and what the others must leave as it is.
void PlanBuilder::drop_copies() {
  std::vector<PlanCall> kept;
  for (PlanCall& call : program_->backward) {
    if (call.copies && storage_index(call.uses[0]) == storage_index(call.uses[1])) {
      std::size_t& before = kept.back().bytes_final;
      before = std::max(before, call.bytes_final);
      continue;
    }
    for (const int used : call.uses) {
      const bool written = std::any_of(call.writes.begin(), call.writes.end(), [&](int other) {
        return storage_index(other) == storage_index(used);
      });
      if (!written && storage_of(used).kind != Storage::Kind::scratch) call.reads.push_back(used);
    }
    kept.push_back(std::move(call));
  }
  program_->backward = std::move(kept);
}

}  // namespace peal
