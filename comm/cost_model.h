// What an all-reduce takes, by the way it goes, and so which way is the quickest.
//
// A way costs so many meetings, steps and bytes (its cost line); what each of these takes here is
// measured by `peal bench collectives --tune`. Lines in the parameters, so that they can be fitted.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace peal {

enum class Way : std::uint8_t {
  mail,         // inside a host: inputs beside the word that says who has come (shared_small.cpp)
  slices,       // inside a host: every rank reduces a slice (shared.cpp)
  small,        // with the messages in which ranks compare their calls (small_reduce.h)
  doubling,     // the same, but partial sums go to and fro between pairs (small_reduce.h)
  ring,         // over messages: a ring of all ranks (reduce_pipeline.h)
  direct,       // over messages: slices straight to their owners, and back
  hosts_ring,   // slices inside each host, rings between hosts (hierarchical.h)
  hosts_direct  // slices inside each host, direct between hosts
};
inline constexpr std::size_t kWays = 8;
inline constexpr std::array<std::string_view, kWays> kWayNames{
    "mail", "slices", "small", "doubling", "ring", "direct", "hosts_ring", "hosts_direct"};
inline std::string_view name_of(Way way) {
  return kWayNames[static_cast<std::size_t>(way)];
}
std::optional<Way> way_of(std::string_view name);
std::string names_of_ways();  // "mail, slices, ..."

// In seconds. Defaults: cores of one socket; Ethernet of 10 Gbit/s.
struct InsideCosts {
  double meeting = 0.4e-6;  // all ranks of a host hear of each other
  double copied = 0.1e-9;   // a byte, from or to memory that another rank has written
  double added =
      0.05e-9;  // a byte of an input that is added up; also of one that a message brought
};
struct BetweenCosts {
  double step = 20e-6;    // a message from its send until its receiver goes on
  double message = 2e-6;  // sending or taking one more
  double sent = 0.9e-9;   // a byte over the link of a host
};
struct CostModel {
  // What lines do not show (queues that overflow, protocols that change with the size): measured
  // over modelled, by size. A size between two has one between theirs, others that of the nearest.
  static constexpr std::size_t kSizes = 17;
  static constexpr double kFirstSize = 64;  // bytes; each size is twice the one before
  using Factors = std::array<double, kSizes>;

  InsideCosts inside;
  BetweenCosts between;
  std::array<Factors, kWays> factors = all_one();

  // The costs, in the order in which they stand.
  static constexpr std::size_t kInside = 3, kBetween = 3, kAll = kInside + kBetween;
  using Values = std::array<double, kAll>;
  Values values() const {
    return {inside.meeting, inside.copied,   inside.added,
            between.step,   between.message, between.sent};
  }
  void set(const Values& v) {
    inside = {v[0], v[1], v[2]};
    between = {v[3], v[4], v[5]};
  }
  // Whether a value is paid whatever the size: a meeting, a step, a message.
  static constexpr bool is_wait(std::size_t value) {
    return value != 1 && value != 2 && value != 5;
  }
  double factor(Way way, double bytes) const;

 private:
  static constexpr std::array<Factors, kWays> all_one() {
    std::array<Factors, kWays> all{};
    for (Factors& factors : all) factors.fill(1);
    return all;
  }
};

// Where the ranks are.
struct Spread {
  int ranks = 1;
  int hosts = 1;
  int of_host = 1;  // ranks of the largest host
  int rails = 1;    // of the smallest
};

// An array of `bytes` from each rank, or `inputs` of them: partial sums of a tree.
struct Load {
  double bytes = 0;
  int inputs = 1;
};

// How often a call pays each of CostModel::values().
CostModel::Values counts(Way way, const Load& load, const Spread& spread);
double seconds(const CostModel& model, Way way, const Load& load, const Spread& spread);

// Which of some ways, by size: the last entry that begins at or below it.
class Switches {
 public:
  struct Entry {
    std::uint64_t from = 0;  // bytes
    Way way = Way::ring;
  };
  struct Candidate {
    Way way;
    std::uint64_t most = UINT64_MAX;  // bytes that it can carry
  };
  // The quickest of `ways`, the first of equals; `only` wherever it is one of them.
  Switches(const CostModel& model, const std::vector<Candidate>& ways, int inputs,
           const Spread& spread, std::optional<Way> only);

  Way way(std::uint64_t bytes) const {
    std::size_t i = entries_.size();
    while (i > 1 && entries_[i - 1].from > bytes) --i;
    return entries_[i - 1].way;
  }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;  // at least one; by size
};

// The longest inputs of a rank, in bytes, that go by mail rather than in slices.
std::size_t most_mail_bytes(const CostModel& model, int ranks, std::optional<Way> only = {});

}  // namespace peal
