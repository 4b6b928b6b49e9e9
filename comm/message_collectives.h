// The collectives as messages from rank to rank, whatever carries these.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "comm/call.h"
#include "comm/reduce.h"

namespace peal {

// Messages between two ranks arrive in the order they are sent in. Those of 0 bytes are left out on
// both sides.
class Messages {
 public:
  virtual void send(const std::byte* from, std::size_t bytes, int to) = 0;
  virtual void receive(std::byte* to, std::size_t bytes, int from) = 0;
  virtual void finish(const Call& call) = 0;  // waits for all that were begun

 protected:
  ~Messages() = default;
};

// Carries out a call that every rank is known to make. An array goes through piece by piece, so
// that memory beside the user's is bounded.
class MessageCollectives {
 public:
  MessageCollectives(Messages& messages, int ranks, int rank);

  void run(const Call& call);

 private:
  // Elements of one piece of the inputs, and where their reduction goes: nullptr on a rank that
  // does not receive it.
  struct Piece {
    std::span<const std::byte* const> inputs;
    std::byte* y = nullptr;
    std::size_t count = 0;
  };

  void reduce(const Call& call);
  void reduce_piece(const Call& call, const Piece& piece);
  void ring(const Call& call, const Piece& piece);
  void ordered(const Call& call, const ReducePlan& plan, const Piece& piece);
  void share(const Call& call, const Piece& piece, const std::byte* total);
  void reduce_scatter(const Call& call);
  void exchange(const Call& call);
  void broadcast(const Call& call);

  void pack(const Call& call, Slice piece);
  void unpack(const Call& call, Slice piece);
  Slice slice(const Call& call, const Piece& piece, int rank) const;
  std::byte* scratch(std::size_t bytes);
  int around(int rank) const { return (rank % ranks_ + ranks_) % ranks_; }

  Messages& messages_;
  int ranks_, rank_;
  ReducePlan chain_, add_, pairs_;
  Reducer reducer_;
  std::vector<std::byte> scratch_, packed_;
  std::vector<const std::byte*> sources_, inputs_;
};

}  // namespace peal
