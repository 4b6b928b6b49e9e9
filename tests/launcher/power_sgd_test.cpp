// PowerSGD against its definition in f64, and the same bits whoever runs which virtual rank.
#include "launcher/power_sgd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "core/base/random.h"
#include "launcher/compression_state.h"

namespace peal::power_sgd_test {
namespace {

constexpr int kVirtualRanks = 5, kRank = 2, kSteps = 5;

ParameterTable table() {
  ParameterTable t;
  Arena arena;
  const auto add = [&](std::vector<ArenaEntry>& list, const std::string& name, const Shape& shape) {
    list.push_back(
        {name, shape, arena.reserve(static_cast<std::size_t>(shape.numel()) * sizeof(float))});
  };
  add(t.slots, "loss", {1});
  t.slots_end = arena.size();
  add(t.parameters, "bias", {37});
  add(t.parameters, "dense", {40, 37});
  add(t.parameters, "small", {3, 4});  // too small to gain
  add(t.parameters, "convolution", {24, 3, 4, 4});
  t.gradient_bytes = arena.size();
  return t;
}

float gradient(std::int64_t step, int leaf, int part, std::size_t i) {
  const Random random({.seed = 9,
                       .step = static_cast<std::uint64_t>(step),
                       .stream = static_cast<std::uint64_t>(leaf),
                       .site = static_cast<std::uint64_t>(part)});
  return static_cast<float>(random.normal(i));
}

struct Case {
  int ranks = 1, lanes = 1, parts = 1;
  std::size_t bucket_bytes = 1 << 20;
};

using Totals = std::vector<std::vector<float>>;  // by step, whole arenas

void one_step(PowerSgd& sum, const ParameterTable& t, std::int64_t step, int parts) {
  Stream s;
  sum.begin_step(step);
  const std::size_t count = t.gradient_bytes / sizeof(float);
  for (int lane = 0; lane < sum.lanes(); ++lane) {
    for (int leaf = sum.leaves(lane).begin; leaf < sum.leaves(lane).end; ++leaf) {
      for (int part = 0; part < parts; ++part) {
        auto* g = reinterpret_cast<float*>(sum.target(lane, leaf, part));
        for (std::size_t i = 0; i < count; ++i) g[i] = gradient(step, leaf, part, i);
        for (const ArenaEntry& entry : t.parameters) sum.ready(s, lane, leaf, part, entry.offset);
        sum.end_part(s, lane, leaf, part);
      }
    }
  }
  std::size_t covered = 0;
  sum.finish(s, [&](std::size_t begin, std::size_t end) {
    EXPECT_EQ(begin, covered);
    EXPECT_TRUE(begin > 0 || end >= t.slots_end);
    covered = end;
  });
  EXPECT_EQ(covered, t.gradient_bytes);
}

PowerSgdOptions options(const Case& c) {
  return {.rank = kRank,
          .virtual_ranks = kVirtualRanks,
          .seed = 3,
          .bucket_bytes = c.bucket_bytes,
          .lanes = c.lanes,
          .parts = c.parts};
}

// What rank 0 sees of all steps; every rank must see the same.
Totals run(const Case& c) {
  const ParameterTable t = table();
  Totals all;
  run_local_ranks(c.ranks, [&](Communicator& comm) {
    PowerSgd sum(comm, t, options(c));
    Totals mine;
    for (std::int64_t step = 0; step < kSteps; ++step) {
      one_step(sum, t, step, c.parts);
      const auto* y = reinterpret_cast<const float*>(sum.total());
      mine.emplace_back(y, y + t.gradient_bytes / sizeof(float));
    }
    Stream s;
    static Totals first;
    if (comm.rank() == 0) first = all = mine;
    comm.wait(s, comm.barrier(s, "rank 0 has written"));
    EXPECT_EQ(mine, first);
    comm.wait(s, comm.barrier(s, "all have read"));
  });
  return all;
}

// The definition, one matrix.
class Reference {
 public:
  Reference(std::int64_t rows, std::int64_t columns, const float* q)
      : rows_(rows), columns_(columns), q_(q, q + kRank * columns) {
    for (auto& e : error_) e.resize(static_cast<std::size_t>(rows * columns));
  }

  std::vector<double> step(std::int64_t step, std::size_t first, int parts) {
    std::vector<double> p(static_cast<std::size_t>(rows_ * kRank));
    for (int v = 0; v < kVirtualRanks; ++v) {
      for (std::size_t i = 0; i < error_[v].size(); ++i) {
        for (int part = 0; part < parts; ++part) {
          error_[v][i] += gradient(step, v, part, first + i);
        }
      }
      each([&](std::int64_t r, std::int64_t c, std::int64_t k) {
        p[at(r, kRank, k)] += error_[v][at(r, columns_, c)] * q_[at(k, columns_, c)];
      });
    }
    orthonormalize(p);
    q_.assign(q_.size(), 0);
    for (int v = 0; v < kVirtualRanks; ++v) {
      each([&](std::int64_t r, std::int64_t c, std::int64_t k) {
        q_[at(k, columns_, c)] += p[at(r, kRank, k)] * error_[v][at(r, columns_, c)];
      });
    }
    std::vector<double> d(static_cast<std::size_t>(rows_ * columns_));
    each([&](std::int64_t r, std::int64_t c, std::int64_t k) {
      d[at(r, columns_, c)] += p[at(r, kRank, k)] * q_[at(k, columns_, c)];
    });
    for (auto& e : error_) {
      for (std::size_t i = 0; i < e.size(); ++i) e[i] -= d[i] / kVirtualRanks;
    }
    return d;
  }

 private:
  static std::size_t at(std::int64_t row, std::int64_t columns, std::int64_t column) {
    return static_cast<std::size_t>(row * columns + column);
  }
  template <typename F>
  void each(F f) const {
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t c = 0; c < columns_; ++c) {
        for (std::int64_t k = 0; k < kRank; ++k) f(r, c, k);
      }
    }
  }
  void orthonormalize(std::vector<double>& p) const {
    for (std::int64_t k = 0; k < kRank; ++k) {
      for (std::int64_t j = 0; j <= k; ++j) {
        double dot = 0;
        for (std::int64_t r = 0; r < rows_; ++r) dot += p[at(r, kRank, j)] * p[at(r, kRank, k)];
        for (std::int64_t r = 0; r < rows_; ++r) {
          if (j < k) p[at(r, kRank, k)] -= dot * p[at(r, kRank, j)];
          if (j == k) p[at(r, kRank, k)] /= std::sqrt(dot);
        }
      }
    }
  }

  std::int64_t rows_, columns_;
  std::vector<double> q_;
  std::vector<double> error_[kVirtualRanks];
};

// The Q that the first step starts with.
std::vector<float> first_q(const std::string& name) {
  const auto comm = make_single_communicator();
  const ParameterTable t = table();
  PowerSgd sum(*comm, t, options({}));
  for (const NamedTensor& state : sum.common_state()) {
    if (state.name != "q/" + name) continue;
    const auto* q = state.tensor.as<const float>();
    return {q, q + state.tensor.numel()};
  }
  ADD_FAILURE() << name << " is not compressed";
  return {};
}

TEST(PowerSgd, IsWhatThePaperSays) {
  const ParameterTable t = table();
  for (const int parts : {1, 2}) {
    const Totals totals = run({.ranks = 2, .parts = parts});
    for (const ArenaEntry& entry : t.parameters) {
      const bool compressed = entry.name == "dense" || entry.name == "convolution";
      const std::int64_t rows = entry.shape[0], columns = entry.shape.numel() / rows;
      const std::vector<float> q = compressed ? first_q(entry.name) : std::vector<float>();
      Reference reference(rows, compressed ? columns : 0, q.data());
      const std::size_t first = entry.offset / sizeof(float);
      for (std::int64_t step = 0; step < kSteps; ++step) {
        std::vector<double> want(static_cast<std::size_t>(entry.shape.numel()));
        if (compressed) want = reference.step(step, first, parts);
        for (std::size_t i = 0; i < want.size(); ++i) {
          for (int v = 0; v < kVirtualRanks * parts && !compressed; ++v) {
            want[i] += gradient(step, v / parts, v % parts, first + i);
          }
          ASSERT_NEAR(totals[static_cast<std::size_t>(step)][first + i], want[i], 2e-4)
              << entry.name << " step " << step << " element " << i;
        }
      }
    }
  }
}

TEST(PowerSgd, BitsDoNotDependOnRanksLanesOrBuckets) {
  const Totals want = run({});
  for (const Case& c : {Case{.ranks = 2}, Case{.ranks = 3}, Case{.ranks = 4}, Case{.ranks = 5},
                        Case{.lanes = 2}, Case{.lanes = 5}, Case{.ranks = 2, .lanes = 2},
                        Case{.bucket_bytes = 64}, Case{.ranks = 3, .bucket_bytes = 64}}) {
    EXPECT_EQ(run(c), want) << c.ranks << " ranks, " << c.lanes << " lanes, buckets of "
                            << c.bucket_bytes;
  }
  EXPECT_EQ(run({.parts = 2}), run({.ranks = 3, .lanes = 2, .parts = 2}));
}

TEST(PowerSgd, NothingIsLost) {
  // What steps have summed and what virtual ranks still hold are all gradients there were.
  const auto comm = make_single_communicator();
  const ParameterTable t = table();
  PowerSgd sum(*comm, t, options({}));
  const std::size_t count = t.gradient_bytes / sizeof(float);
  std::vector<double> all(count), given(count);
  for (std::int64_t step = 0; step < kSteps; ++step) {
    one_step(sum, t, step, 1);
    for (std::size_t i = 0; i < count; ++i) {
      all[i] += reinterpret_cast<const float*>(sum.total())[i];
      for (int v = 0; v < kVirtualRanks; ++v) given[i] += gradient(step, v, 0, i);
    }
  }
  double left = 0;
  for (const ArenaEntry& entry : sum.entries_with_error(t)) {
    for (std::int64_t k = 0; k < entry.shape.numel(); ++k) {
      const std::size_t i = entry.offset / sizeof(float) + static_cast<std::size_t>(k);
      for (int v = 0; v < kVirtualRanks; ++v) {
        const float error = reinterpret_cast<const float*>(sum.error(v))[i];
        all[i] += error;
        left += std::fabs(error);
      }
      ASSERT_NEAR(all[i], given[i], 1e-4) << entry.name;
    }
  }
  EXPECT_GT(left, 100);
}

// Steps 0 to 2 on some ranks, the state as a checkpoint has it, the others on other ranks.
Totals run_in_two(int before, int after) {
  const ParameterTable t = table();
  std::vector<std::pair<std::string, std::vector<float>>> saved;
  std::vector<Shape> shapes;
  Totals all;
  const auto steps = [&](PowerSgd& sum, std::int64_t from, std::int64_t to, bool note) {
    for (std::int64_t step = from; step < to; ++step) {
      one_step(sum, t, step, 1);
      const auto* y = reinterpret_cast<const float*>(sum.total());
      if (note) all.emplace_back(y, y + t.gradient_bytes / sizeof(float));
    }
  };
  run_local_ranks(before, [&](Communicator& comm) {
    PowerSgd sum(comm, t, options({}));
    CompressionState state(comm, t, kVirtualRanks, sum);
    steps(sum, 0, 3, comm.rank() == 0);
    Stream s;
    state.collect(s);
    if (comm.rank() != 0) return;
    for (const NamedTensor& tensor : state.tensors()) {
      const auto* values = tensor.tensor.as<const float>();
      saved.push_back({tensor.name, {values, values + tensor.tensor.numel()}});
      shapes.push_back(tensor.tensor.shape);
    }
  });
  run_local_ranks(after, [&](Communicator& comm) {
    PowerSgd sum(comm, t, options({}));
    CompressionState state(comm, t, kVirtualRanks, sum);
    std::vector<NamedTensor> given;
    for (std::size_t i = 0; i < saved.size() && comm.rank() == 0; ++i) {
      given.push_back({saved[i].first, {.data = saved[i].second.data(), .shape = shapes[i]}});
    }
    if (comm.rank() == 0) state.check(given, "checkpoint");
    Stream s;
    state.restore(s, given);
    steps(sum, 3, kSteps, comm.rank() == 0);
  });
  return all;
}

TEST(CompressionState, GoesOnOnAnyNumberOfRanks) {
  const Totals want = run({});
  for (const auto& [before, after] : {std::pair{1, 3}, {3, 1}, {2, 5}, {4, 3}}) {
    EXPECT_EQ(run_in_two(before, after), want) << before << " then " << after;
  }
}

TEST(CompressionState, RefusesWhatIsNotItsOwn) {
  const auto comm = make_single_communicator();
  const ParameterTable t = table();
  PowerSgd sum(*comm, t, options({}));
  CompressionState state(*comm, t, kVirtualRanks, sum);
  const std::vector<NamedTensor> good = state.tensors();
  const auto said = [&](std::vector<NamedTensor> list) -> std::string {
    try {
      state.check(list, "f");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      return error.what();
    }
    return "nothing";
  };
  EXPECT_EQ(said(good), "nothing");
  std::vector<NamedTensor> bad = good;
  bad.back().name = "error.5/dense";
  EXPECT_EQ(said(bad), "f: tensor \"error.5/dense\" is no state of this job");
  bad.back().name = "error.1x/dense";
  EXPECT_EQ(said(bad), "f: tensor \"error.1x/dense\" is no state of this job");
  bad = good;
  bad.back().tensor.shape = {7};
  EXPECT_EQ(said(bad),
            "f: tensor \"error.4/convolution\" is f32 (7) in the file and f32 (24, 3, 4, 4) in "
            "this job");
  bad = good;
  bad.pop_back();
  EXPECT_EQ(said(bad), "f: holds 9 errors of gradients; this job has 10");
  EXPECT_EQ(said({}), "f: holds 0 matrices of power_sgd; this job has 2");
}

TEST(PowerSgd, RefusesARankThatGainsNothing) {
  check_power_sgd(table(), 9);
  try {
    check_power_sgd(table(), 10);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_THAT(error.what(),
                ::testing::StartsWith(
                    "parallel.compression.power_sgd.rank: 10 halves no parameter of this model"));
  }
}

}  // namespace
}  // namespace peal::power_sgd_test
