// What `peal doctor` concludes from what hosts say.
#include <gmock/gmock.h>

#include "core/base/error.h"
#include "launcher/doctor_judge.h"
#include "launcher/doctor_network.h"

namespace peal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr double kFast = 1e8, kQuick = 1e-4;

NetworkMap even_map(std::size_t n) {
  NetworkMap map;
  for (std::size_t i = 0; i < n; ++i) map.hosts.push_back("h" + std::to_string(i));
  map.links.assign(n * n, {kQuick, kFast});
  for (std::size_t i = 0; i < n; ++i) map.links[i * n + i] = {};
  return map;
}

TEST(SlowLinks, NoneAmongEqualOnes) {
  for (const std::size_t n : {1, 2, 3, 4, 5, 8})
    EXPECT_THAT(slow_links(even_map(n), 0.5), IsEmpty());
}

// With three hosts most links have the slow one at an end, and yet the other two are the measure.
TEST(SlowLinks, OneSlowHostDoesNotLookUsual) {
  for (const std::size_t n : {3, 4, 5, 8}) {
    NetworkMap map = even_map(n);
    std::vector<std::size_t> expected;
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = 0; b < n; ++b) {
        if (a == b || (a != 1 && b != 1)) continue;
        map.links[a * n + b].bytes_per_second = 0.4 * kFast;
        expected.push_back(a * n + b);
      }
    }
    EXPECT_EQ(slow_links(map, 0.5), expected) << n;
    EXPECT_THAT(slow_links(map, 0.3), IsEmpty());
  }
}

TEST(SlowLinks, OneDirectionAndOneLateLink) {
  NetworkMap map = even_map(4);
  map.links[1 * 4 + 2].bytes_per_second = 0.1 * kFast;
  map.links[3 * 4 + 0].seconds = 0.1;
  EXPECT_THAT(slow_links(map, 0.5), ElementsAre(1 * 4 + 2, 3 * 4 + 0));
}

TEST(SlowLinks, WhatWasNotMeasuredIsNotSlow) {
  NetworkMap map = even_map(4);
  map.links[1] = {};
  EXPECT_THAT(slow_links(map, 0.5), IsEmpty());
}

TEST(MostCommon, TheFirstOfEquallyCommonOnes) {
  EXPECT_EQ(most_common({"a", "b", "b"}), "b");
  EXPECT_EQ(most_common({"a", "b"}), "a");
  EXPECT_EQ(most_common({}), "");
}

std::vector<HostVisit> sound_hosts(int n) {
  std::vector<HostVisit> visits;
  for (int i = 1; i <= n; ++i) {
    HostVisit& visit = visits.emplace_back();
    visit.asked = {"node" + std::to_string(i), 2};
    HostFacts facts;
    facts.host = visit.asked.name;
    facts.build = "1.0";
    facts.binary = "00ff";
    facts.libraries = {{"oneDNN", "2.6.3"}};
    facts.cpu = "A CPU";
    facts.instructions = "avx2";
    facts.cores = 4;
    facts.orted = "/usr/bin/orted";
    facts.files = 65536;
    facts.locked_bytes = facts.core_bytes = HostFacts::kUnlimited;
    facts.shm_bytes = facts.shm_free = std::uint64_t{1} << 30;
    facts.cards = {{"eth0", "10.0.0." + std::to_string(i), 24, true}};
    visit.facts = facts;
  }
  return visits;
}

std::string judged(const std::vector<HostVisit>& visits, const DoctorQuestion& question = {}) {
  std::vector<std::string> names;
  for (const HostVisit& visit : visits) names.push_back(visit.asked.name);
  DoctorReport report(names);
  judge_visits(visits, question, report);
  return report.table();
}

TEST(Judge, SoundHosts) {
  EXPECT_THAT(judged(sound_hosts(3)), HasSubstr("\nverdict: all right\n"));
}

TEST(Judge, ManyHostsThatAreAlikeAreOneColumn) {
  std::vector<HostVisit> visits = sound_hosts(20);
  visits[7].facts->cpu = "Another";
  const std::string said = judged(visits);
  EXPECT_THAT(said, HasSubstr("node1 and 18 alike  node8\n"));
  EXPECT_THAT(said,
              HasSubstr("fault: node8: CPU: its CPU is Another, avx2 but node1 has A CPU, avx2\n"));
}

TEST(Judge, ControlGroupsLocksAndDaemons) {
  std::vector<HostVisit> visits = sound_hosts(2);
  visits[0].facts->cpu_quota = 1.5;
  visits[1].facts->rdma = true;
  visits[1].facts->locked_bytes = 8 << 20;
  visits[1].facts->orted = "";
  const std::string said = judged(visits);
  EXPECT_THAT(said,
              HasSubstr("warning: node1: cores: 2 ranks are asked of 1.5 cores that its control"));
  EXPECT_THAT(said, HasSubstr("warning: node2: limits: a process may lock 8.0 MiB of memory"));
  EXPECT_THAT(said, HasSubstr("fault: node2: mpirun: Open MPI's orted is not on PATH"));
  DoctorQuestion question;
  question.srun = true;
  EXPECT_THAT(judged(visits, question), Not(HasSubstr("orted")));
}

TEST(Judge, Networks) {
  std::vector<HostVisit> visits = sound_hosts(2);
  for (HostVisit& visit : visits) visit.facts->cards.push_back({"docker0", "172.17.0.1", 16, true});
  EXPECT_THAT(judged(visits),
              HasSubstr("warning: node2: interface: docker0 172.17.0.1 is the same"));
  DoctorQuestion question;
  question.interface = "eth0";
  EXPECT_THAT(judged(visits, question), HasSubstr("\nverdict: all right\n"));
  visits[1].facts->cards[0].up = false;
  EXPECT_THAT(judged(visits, question), HasSubstr("fault: node2: interface: eth0 is down\n"));
  question.interface = "10.0.0.0/24";
  visits[1].facts->cards[0] = {"eth1", "10.0.1.2", 24, true};
  EXPECT_THAT(judged(visits, question),
              HasSubstr("node2: interface: has no 10.0.0.0/24; it has eth1"));
  visits[0].facts->cards.pop_back();
  EXPECT_THAT(judged(visits), HasSubstr("warning: node1: interface: no network is on all hosts"));
}

TEST(Judge, Names) {
  std::vector<HostVisit> visits = sound_hosts(2);
  visits[0].facts->names = {{"node1", "127.0.1.1"}, {"node2", "127.0.0.1"}};
  visits[1].facts->names = {{"node1", ""}, {"node2", "10.0.0.2"}};
  visits[1].facts->host = "node1";
  const std::string said = judged(visits);
  EXPECT_THAT(said,
              HasSubstr("fault: node1: names: takes other hosts for itself (127.*): node2\n"));
  EXPECT_THAT(said, HasSubstr("warning: node2: names: does not know the hosts node1\n"));
  EXPECT_THAT(said, HasSubstr("fault: node2: names: calls itself 'node1', as node1 does\n"));
}

TEST(Judge, GpusThatAreSick) {
  std::vector<HostVisit> visits = sound_hosts(2);
  for (HostVisit& visit : visits) visit.facts->gpus = {{"H100", "550"}, {"H100", "550"}};
  EXPECT_THAT(judged(visits), HasSubstr("\nverdict: all right\n"));
  visits[1].facts->gpus[1].driver = "560";
  EXPECT_THAT(judged(visits),
              HasSubstr("GPUs: what it has is 1 x H100, driver 550, 1 x H100, driver 560 "
                        "but node1 has 2 x H100, driver 550\n"));
  visits[1].facts->gpus = visits[0].facts->gpus;
  visits[1].facts->gpu_trouble = "nvidia-smi does not answer";
  EXPECT_THAT(judged(visits), HasSubstr("fault: node2: GPUs: nvidia-smi does not answer\n"));
}

TEST(HostFacts, WhatIsRefused) {
  const std::string good = print_host_facts(*sound_hosts(1)[0].facts);
  EXPECT_EQ(print_host_facts(parse_host_facts(good, "h")), good);
  const auto refused = [](std::string text, const std::string& from, const std::string& to) {
    text.replace(text.find(from), from.size(), to);
    try {
      parse_host_facts(text, "h");
      return std::string("taken");
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(refused(good, "\"cores\":4", "\"cores\":-4"), "h: 'cores' is not a whole number");
  EXPECT_EQ(refused(good, "\"cores\":4", "\"cores\":99999999"), "h: 'cores' is not at most 2^20");
  EXPECT_EQ(refused(good, "\"cores\":4,", ""), "h: says nothing of 'cores'");
  EXPECT_EQ(refused(good, "\"rdma\":false", "\"rdma\":0"), "h: 'rdma' is not true or false");
  EXPECT_EQ(refused(good, "{\"name\":\"oneDNN\"", "{\"nam\":\"oneDNN\""),
            "h: libraries: says nothing of 'name'");
  EXPECT_EQ(refused(good, "{", "["), "h: is no JSON");
}

}  // namespace
}  // namespace peal
