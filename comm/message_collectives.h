// The collectives as messages from rank to rank, whatever carries these.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "comm/cost_model.h"
#include "comm/reduce_pipeline.h"

namespace peal {

// Carries out a call that every rank is known to make. An array goes through piece by piece, so
// that memory beside the user's is bounded.
class MessageCollectives {
 public:
  MessageCollectives(Messages& messages, int ranks, int rank);

  // `way`, of a reduction to all ranks: ring or direct.
  void run(const Call& call, Way way = Way::direct);
  void reset();  // after a failure

 private:
  void reduce(const Call& call, Way way);
  ReducePipeline::Work work_of(const Call& call, Way way) const;
  void begin_piece(const Call& call, const ReducePipeline::Work& work, Slice piece, int packed);
  void pack(const Call& call, Slice piece, std::vector<std::byte>& packed);
  void unpack(const Call& call, Slice piece, const std::vector<std::byte>& packed);
  void reduce_scatter(const Call& call);
  void reduce_scatter_tree(const Call& call);
  void exchange(const Call& call);
  void broadcast(const Call& call);
  std::byte* scratch(std::size_t bytes);
  int around(int rank) const { return (rank % ranks_ + ranks_) % ranks_; }

  Messages& messages_;
  Messages::Lane lane_;
  int ranks_, rank_;
  ReducePlan chain_, pairs_;
  ReducePipeline pipeline_;
  Reducer reducer_;
  std::vector<std::byte> scratch_;
  std::array<std::vector<std::byte>, ReducePipeline::kPieces> packed_;  // of a group, by piece
  std::vector<const std::byte*> sources_, inputs_;
};

}  // namespace peal
