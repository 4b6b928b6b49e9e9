// PowerSGD (Vogels, Karimireddy and Jaggi 2019, algorithms 1 and 2): gradients of matrices travel
// as the product of two thin ones.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/device/buffer.h"
#include "launcher/gradient_sum.h"

namespace peal {

struct PowerSgdOptions {
  int rank = 4;  // K
  int virtual_ranks = 1;
  std::uint64_t seed = 0;
  std::size_t bucket_bytes = std::size_t{1} << 20;
  int lanes = 1;
  int parts = 1;  // accumulate_steps
  // Runs a function on every lane at the same time; lane by lane where it is empty.
  std::function<void(const std::function<void(int)>&)> on_lanes = {};
};

// Of a parameter with two dimensions or more, the gradient is a matrix M (R, C) of its first
// dimension and all others. It is compressed where K (R + C) is at most half of R C; all else, and
// the slots, travels exactly. For each virtual rank v with gradient G_v and error E_v:
//   M_v = G_v + E_v;  P = sum_v M_v Q^T, made orthonormal;  Q = sum_v P^T M_v;
//   D = P Q is the gradient of the step;  E_v = M_v - D / V.
// Q is kept for the next step (warm start) and so are E_v. Both sums are all_reduce_tree, and all
// else is done alike by everybody or for one virtual rank alone: bits do not depend on the number
// of ranks, whatever parallel.reduction says.
//
// Bytes: 2 all_reduce_tree of K R and K C values a matrix. Memory: an arena for each virtual rank,
// one a lane (two with parts) and one for the sum. A pass over an arena each for M and P, for Q and
// for D and E_v.
class PowerSgd final : public GradientSum {
 public:
  // Collective. `comm` outlives it.
  PowerSgd(Communicator& comm, const ParameterTable& table, const PowerSgdOptions& options);
  ~PowerSgd() override;

  int lanes() const override;
  TreeNode leaves(int lane) const override;
  void begin_step(std::int64_t step) override;
  std::byte* target(int lane, int leaf, int part) override;
  void ready(Stream& s, int lane, int leaf, int part, std::size_t bytes_final) override;
  void end_part(Stream& s, int lane, int leaf, int part) override;
  void finish(Stream& s, const OnSlice& on_slice) override;
  std::size_t slices() const override;
  std::byte* total() override;
  std::size_t bytes() const override;

  Errors errors() const override { return Errors::by_virtual_rank; }
  std::byte* error(int virtual_rank) override;
  std::vector<ArenaEntry> entries_with_error(const ParameterTable& table) const override;
  std::vector<NamedTensor> common_state() override;  // "q/NAME" (K, C)

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Throws Error(input) when no parameter of the table is compressed.
void check_power_sgd(const ParameterTable& table, int rank);

}  // namespace peal
