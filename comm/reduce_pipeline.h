// Reductions over messages, several pieces of an array at a time: while one waits for its next
// message, the links carry those of the others.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "comm/messages.h"
#include "comm/reduce.h"

namespace peal {

class ReducePipeline {
 public:
  // `peers`: the ranks that reduce, in the order of the reduction; `me`: which of them this one is.
  ReducePipeline(Messages& messages, std::vector<int> peers, int me);

  enum class Order { ring, planned };
  // How pieces are reduced; must stay as it is until all have ended.
  struct Work {
    Order order = Order::planned;
    const ReducePlan* plan = nullptr;  // planned: over the inputs of peer 0, then of peer 1, ...
    const TreePlan* tree = nullptr;    // planned: how many inputs a peer has; null: one each
    DType dtype = DType::f32;
    ReduceOp op = ReduceOp::sum;
    int divisor = 1;  // of a mean
    int root = -1;    // the only peer that receives the result; -1: all do
  };
  // Elements of one piece of the inputs, and where their reduction goes: nullptr on a peer that
  // does not receive it.
  struct Piece {
    std::span<const std::byte* const> inputs;
    std::byte* y = nullptr;
    std::size_t count = 0;
  };
  static constexpr int kPieces = 8;  // at a time

  // A good size of a piece: long enough for a link, short enough that the first and the last steps,
  // in which links wait, are few; and bounded, as all pieces need as much scratch memory.
  static std::size_t piece_bytes(int peers);

  int peers() const { return static_cast<int>(peers_.size()); }
  // Begins a piece. At most kPieces are under way: the caller finishes the oldest before it begins
  // another one. Every peer begins the same pieces in the same order.
  void begin(const Work& work, const Piece& piece);
  // Sees the oldest piece through, and the others on their way.
  void finish_oldest(const Call& call);
  // After a failure: all that was begun is forgotten.
  void reset();

 private:
  struct Running {
    Messages::Lane lane;
    Work work;
    Piece piece;
    std::vector<const std::byte*> inputs, sources;
    std::vector<std::byte> scratch;
    int stage = 0;
    bool ended = true;
  };

  void advance_all();
  void advance(Running& piece);
  void ring(Running& piece);
  void ring_reduce(Running& piece, int step);
  void planned(Running& piece);
  void exchange(Running& piece);
  void reduce(Running& piece);
  void share(Running& piece);
  std::byte* total(Running& piece);
  std::byte* scratch(Running& piece, std::size_t bytes);
  Slice slice(const Running& piece, int peer) const;
  int rank(int peer) const { return peers_[static_cast<std::size_t>(around(peer))]; }
  int around(int peer) const { return (peer % peers() + peers()) % peers(); }

  Messages& messages_;
  std::vector<int> peers_;
  int me_;
  ReducePlan add_;
  Reducer reducer_;
  std::array<Running, kPieces> running_;
  std::uint64_t begun_ = 0, finished_ = 0;
};

}  // namespace peal
