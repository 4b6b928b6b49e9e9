#include "launcher/binding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>

#include "core/base/error.h"
#include "launcher/rank_layout.h"

namespace peal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Variables for one test. hwloc reads what machine it should show from the environment.
class Environment {
 public:
  struct Variable {
    std::string name, value;
  };
  explicit Environment(const std::vector<Variable>& variables) {
    for (const auto& [name, value] : variables) {
      names_.push_back(name);
      ::setenv(name.c_str(), value.c_str(), 1);
    }
  }
  ~Environment() {
    for (const std::string& name : names_) ::unsetenv(name.c_str());
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  std::vector<std::string> names_;
};

// Two sockets of four cores of two threads: CPUs 0-7 and 8-15, two to a core.
constexpr const char* kTwoSockets = "pack:2 numa:1 core:4 pu:2";

std::vector<std::string> texts(const HostBinding& host) {
  std::vector<std::string> out;
  for (const RankBinding& rank : host.ranks) out.push_back(describe(rank));
  return out;
}

std::vector<std::string> share(const std::string& tree, const std::string& bind, int ranks) {
  const Environment environment(std::vector<Environment::Variable>{{"HWLOC_SYNTHETIC", tree}});
  const HostBinding host = share_host(bind, ranks, allowed_cpus());
  EXPECT_EQ(host.this_machine, bind == "none");
  return texts(host);
}

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "";
}

CpuSet range(std::size_t begin, std::size_t end) {
  CpuSet set;
  for (std::size_t cpu = begin; cpu < end; ++cpu) set.set(cpu);
  return set;
}

TEST(Binding, RanksShareAllCoresOfTheirHost) {
  EXPECT_THAT(share(kTwoSockets, "auto", 1),
              ElementsAre("CPUs 0-15: 8 cores of sockets 0-1, NUMA nodes 0-1"));
  EXPECT_THAT(share(kTwoSockets, "auto", 2),
              ElementsAre("CPUs 0-7: 4 cores of socket 0, NUMA node 0",
                          "CPUs 8-15: 4 cores of socket 1, NUMA node 1"));
  EXPECT_THAT(share(kTwoSockets, "auto", 4),
              ElementsAre("CPUs 0-3: 2 cores of socket 0, NUMA node 0",
                          "CPUs 4-7: 2 cores of socket 0, NUMA node 0",
                          "CPUs 8-11: 2 cores of socket 1, NUMA node 1",
                          "CPUs 12-15: 2 cores of socket 1, NUMA node 1"));
}

TEST(Binding, SharesAreAsEqualAsCanBeAndDoNotOverlap) {
  const Environment environment(
      std::vector<Environment::Variable>{{"HWLOC_SYNTHETIC", kTwoSockets}});
  for (int ranks = 1; ranks <= 16; ++ranks) {
    const HostBinding host = share_host("auto", ranks, allowed_cpus());
    CpuSet together;
    std::size_t least = 16, most = 0;
    for (const RankBinding& rank : host.ranks) {
      EXPECT_TRUE((together & rank.cpus).none()) << ranks;
      together |= rank.cpus;
      least = std::min(least, rank.cpus.count());
      most = std::max(most, rank.cpus.count());
    }
    EXPECT_EQ(together, range(0, 16)) << ranks;
    // Whole cores, while there is one for each.
    EXPECT_LE(most - least, ranks <= 8 ? 2u : 1u) << ranks;
  }
}

TEST(Binding, MoreRanksThanCores) {
  EXPECT_THAT(share("pack:1 core:1 pu:2", "auto", 2),
              ElementsAre("CPU 0: 1 core of socket 0, NUMA node 0",
                          "CPU 1: 1 core of socket 0, NUMA node 0"));
  EXPECT_THAT(share("pack:1 core:1 pu:2", "auto", 3),
              testing::Each("not bound: 3 ranks share CPUs 0-1: 1 core of socket 0, NUMA node 0"));
}

TEST(Binding, ACoreASocketOrANodeEach) {
  EXPECT_THAT(share(kTwoSockets, "core", 2),
              ElementsAre("CPUs 0-1: 1 core of socket 0, NUMA node 0",
                          "CPUs 8-9: 1 core of socket 1, NUMA node 1"));
  EXPECT_THAT(share(kTwoSockets, "socket", 4),
              ElementsAre(HasSubstr("socket 0"), HasSubstr("socket 0"), HasSubstr("socket 1"),
                          HasSubstr("socket 1")));
  EXPECT_THAT(share("pack:1 numa:4 core:2 pu:1", "numa", 2),
              ElementsAre("CPUs 0-1: 2 cores of socket 0, NUMA node 0",
                          "CPUs 4-5: 2 cores of socket 0, NUMA node 2"));
  EXPECT_THAT(share(kTwoSockets, "none", 2), testing::Each("not bound"));
}

TEST(Binding, MoreRanksThanCoresToBindTo) {
  EXPECT_THAT(error_of([] { share("pack:1 core:2 pu:2", "core", 3); }),
              testing::MatchesRegex("--bind core: host .*: 3 ranks, which may use 2 cores; "
                                    "start fewer ranks there, or give --bind auto"));
}

TEST(Binding, KeepsToWhatThisProcessMayUse) {
  const Environment environment(std::vector<Environment::Variable>{{"HWLOC_SYNTHETIC", kTwoSockets},
                                                                   {"HWLOC_THISSYSTEM", "1"}});
  EXPECT_THAT(texts(share_host("auto", 2, range(6, 12))),
              ElementsAre("CPUs 6-7: 1 core of socket 0, NUMA node 0",
                          "CPUs 8-11: 2 cores of socket 1, NUMA node 1"));
  EXPECT_THAT(texts(share_host("socket", 2, range(2, 6))),
              testing::Each("CPUs 2-5: 2 cores of socket 0, NUMA node 0"));
  EXPECT_THAT(error_of([] { share_host("core", 3, range(0, 4)); }), HasSubstr("may use 2 cores"));
}

// Two sockets of two cores; GPUs 0000:17, 0000:18 at the second socket, 0000:97 at the first, and
// there a network card and a chip for the console.
TEST(Binding, TheNearestGpu) {
  const Environment environment(std::vector<Environment::Variable>{
      {"HWLOC_XMLFILE", PEAL_SOURCE_DIR "/tests/launcher/two_sockets_three_gpus.xml"}});
  EXPECT_THAT(texts(share_host("auto", 2, allowed_cpus())),
              ElementsAre("CPUs 0-1: 2 cores of socket 0, NUMA node 0; GPU 0000:97:00.0",
                          "CPUs 2-3: 2 cores of socket 1, NUMA node 1; GPU 0000:17:00.0"));
  const HostBinding four = share_host("core", 4, allowed_cpus());
  EXPECT_THAT(texts(four), ElementsAre("CPU 0: 1 core of socket 0, NUMA node 0; GPU 0000:97:00.0",
                                       "CPU 1: 1 core of socket 0, NUMA node 0; GPU 0000:97:00.0",
                                       "CPU 2: 1 core of socket 1, NUMA node 1; GPU 0000:17:00.0",
                                       "CPU 3: 1 core of socket 1, NUMA node 1; GPU 0000:17:00.0"));
  EXPECT_EQ(four.ranks[0].gpu, 2);
  EXPECT_EQ(four.ranks[3].gpu, 0);
  // One for each while they last, though the nearest may be another's.
  EXPECT_THAT(
      texts(share_host("auto", 3, allowed_cpus())),
      ElementsAre(HasSubstr("GPU 0000:97"), HasSubstr("GPU 0000:17"), HasSubstr("GPU 0000:18")));
}

TEST(Binding, WhereARankStands) {
  {
    const Environment environment(std::vector<Environment::Variable>{
        {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}});
    const PlaceOnHost place = place_on_host();
    EXPECT_EQ(place.rank, 1);
    EXPECT_EQ(place.ranks, 3);
    EXPECT_EQ(place.bound_by, "");
  }
  for (const auto& [node, ranks] : std::map<std::string, int>{{"0", 2}, {"2", 2}, {"3", 5}}) {
    const Environment environment(
        std::vector<Environment::Variable>{{"SLURM_JOB_ID", "7"},
                                           {"SLURM_STEP_TASKS_PER_NODE", "2(x3),5"},
                                           {"SLURM_NODEID", node},
                                           {"SLURM_LOCALID", "1"},
                                           {"SLURM_CPUS_ON_NODE", "6"}});
    const PlaceOnHost place = place_on_host();
    EXPECT_EQ(place.rank, 1);
    EXPECT_EQ(place.ranks, ranks);
    EXPECT_EQ(place.granted, 6);
    EXPECT_EQ(place.bound_by, "");
  }
  EXPECT_EQ(place_on_host().ranks, 1);
}

TEST(Binding, WhoIsBoundAlreadyStaysSo) {
  const CpuSet before = allowed_cpus();
  {
    const Environment environment(
        std::vector<Environment::Variable>{{"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                                           {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                                           {"OMPI_MCA_orte_bound_at_launch", "1"}});
    EXPECT_THAT(bind_this_rank("core"), HasSubstr("bound by mpirun to CPU"));
  }
  {
    const Environment environment(std::vector<Environment::Variable>{
        {"SLURM_STEP_TASKS_PER_NODE", "2"}, {"SLURM_CPU_BIND_TYPE", "mask_cpu:"}});
    EXPECT_THAT(bind_this_rank("auto"), HasSubstr("bound by srun to CPU"));
  }
  EXPECT_EQ(allowed_cpus(), before);
}

TEST(Binding, APartOfAHostThatSlurmDoesNotHoldTheJobTo) {
  EXPECT_THAT(why_not_held(/*granted=*/4, /*usable=*/64, /*online=*/64),
              testing::MatchesRegex("Slurm gave 4 of the 64 CPUs of host .* and does not hold the "
                                    "job to them"));
  EXPECT_EQ(why_not_held(64, 64, 64), "");
  EXPECT_EQ(why_not_held(8, 2, 2), "");   // a host that Slurm believes to be larger
  EXPECT_EQ(why_not_held(4, 4, 64), "");  // held to them
  EXPECT_EQ(why_not_held(4, 8, 64), "");  // held to four cores of two threads
  EXPECT_EQ(why_not_held(0, 64, 64), "");
}

TEST(Binding, SharesOfProcessors) {
  const auto shares = [](std::vector<CpuSet> allowed, double quota = 0) {
    std::vector<int> out;
    for (std::size_t r = 0; r < allowed.size(); ++r) {
      out.push_back(share_of_cpus(allowed, r, quota));
    }
    return out;
  };
  EXPECT_THAT(shares({range(0, 8)}), ElementsAre(8));
  EXPECT_THAT(shares({range(0, 8), range(0, 8), range(0, 8)}), ElementsAre(2, 2, 2));
  EXPECT_THAT(shares({range(0, 4), range(4, 8)}), ElementsAre(4, 4));
  EXPECT_THAT(shares({range(0, 4), range(0, 4), range(4, 8)}), ElementsAre(2, 2, 4));
  EXPECT_THAT(shares({range(0, 6), range(4, 8)}), ElementsAre(5, 3));
  EXPECT_THAT(shares({range(0, 1), range(0, 1)}), ElementsAre(1, 1));
  EXPECT_THAT(shares({range(0, 64), range(0, 64)}, 5), ElementsAre(2, 2));
}

}  // namespace
}  // namespace peal
