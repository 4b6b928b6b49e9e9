// The flight recorder: what it keeps, when it writes, and that a stuck call does not stop it.
#include "comm/flight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/error.h"
#include "tests/comm/contract.h"
#include "tests/comm/late.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

class Folder : public TemporaryFolder {
 public:
  std::filesystem::path file(int rank) const {
    return path() / cat("flight-rank-", rank, ".jsonl");
  }
  // Head, calls and end of a rank's file; waits for it to be written.
  std::vector<Json> lines(int rank) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!std::filesystem::exists(file(rank)) && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::ifstream in(file(rank));
    std::vector<Json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
    if (lines.size() < 2) throw std::runtime_error("no file " + file(rank).string());
    return lines;
  }
};

CallRecord record_of(std::uint64_t sequence) {
  CallRecord record;
  record.sequence = sequence;
  set_name(record, cat("call ", sequence));
  return record;
}

TEST(FlightRing, KeepsTheNewest4096InOrder) {
  FlightRing ring;
  std::vector<FlightCall> calls(FlightRing::kCalls);
  EXPECT_EQ(ring.copy_to(calls), 0u);
  for (std::uint64_t sequence = 1; sequence <= 5000; ++sequence) {
    // Every fifth is a call of a pair, with a number of its own.
    CallRecord record = record_of(sequence);
    if (sequence % 5 == 0) record.kind = CallKind::send, record.sequence = sequence / 5;
    ring.queued(record, 7);
    if (sequence < 5000) ring.started(sequence);
    if (sequence < 4999) ring.ended(sequence, true);
    if (sequence == 3) {
      ASSERT_EQ(ring.copy_to(calls), 3u);
      EXPECT_EQ(calls[0].record.sequence, 1u);
    }
  }
  EXPECT_EQ(ring.entries(), 5000u);
  EXPECT_EQ(ring.ended(), 4998u);
  ASSERT_EQ(ring.copy_to(calls), 4096u);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const FlightCall& call = calls[i];
    ASSERT_EQ(call.record.sequence, (905 + i) % 5 == 0 ? (905 + i) / 5 : 905 + i);
    ASSERT_STREQ(call.record.name.data(), cat("call ", 905 + i).c_str());
    ASSERT_EQ(call.step, 7);
    ASSERT_LE(calls[i == 0 ? 0 : i - 1].queued, call.queued);
    if (call.state != FlightState::finished) continue;
    ASSERT_LE(call.queued, call.started);
    ASSERT_LE(call.started, call.ended);
  }
  EXPECT_EQ(calls[4093].state, FlightState::finished);
  EXPECT_EQ(calls[4094].state, FlightState::running);
  EXPECT_EQ(calls[4095].state, FlightState::queued);
}

TEST(Flight, ASignalWritesTheFileAndTheRunGoesOn) {
  const Folder folder;
  const auto comm = make_single_communicator();
  comm->set_flight_directory((folder.path() / "made").string());
  comm->set_step(12);
  Stream s;
  std::vector<double> x(10);
  for (int i = 1; i <= 4100; ++i) {
    comm->wait(s, comm->all_reduce(s, cat("bucket ", i), contract::view(x), contract::view(x),
                                   ReduceOp::max));
  }
  ::raise(SIGUSR2);
  const std::filesystem::path path = folder.path() / "made" / "flight-rank-0.jsonl";
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!std::filesystem::exists(path) && std::chrono::steady_clock::now() < end) {
    comm->wait(s, comm->barrier(s, "go on"));
  }
  std::ifstream in(path);
  std::string line;
  ASSERT_TRUE(std::getline(in, line));
  const Json head = Json::parse(line);
  EXPECT_EQ(head["why"], "SIGUSR2");
  EXPECT_EQ(head["failure"], "");
  EXPECT_EQ(head["step"], 12);
  const std::int64_t made = head["made"];
  ASSERT_GE(made, 4100);
  for (std::int64_t number = made - 4095; number <= made; ++number) {
    ASSERT_TRUE(std::getline(in, line));
    const Json call = Json::parse(line);
    ASSERT_EQ(call["call"], number);
    if (number > 4100) continue;
    ASSERT_EQ(call["name"], cat("bucket ", number));
    ASSERT_EQ(call["kind"], "all_reduce");
    ASSERT_EQ(call["dtype"], "f64");
    ASSERT_EQ(call["elements"], 10);
    ASSERT_EQ(call["bytes"], 80);
    ASSERT_EQ(call["state"], "finished");
    ASSERT_LE(call["queued_us"], call["started_us"]);
    ASSERT_LE(call["started_us"], call["ended_us"]);
    ASSERT_LE(call["ended_us"], head["written_us"]);
  }
  ASSERT_TRUE(std::getline(in, line));
  EXPECT_EQ(Json::parse(line)["calls"], 4096);
  EXPECT_FALSE(std::getline(in, line));
  comm->wait(s, comm->barrier(s, "still alive"));
}

TEST(Flight, IsWrittenWhileACallIsStuck) {
  const Folder folder;
  std::atomic<bool> waits{false};
  run_local_ranks(2, [&](Communicator& comm) {
    comm.set_flight_directory(folder.path().string());
    comm.set_deadline(60);
    Stream s;
    std::vector<float> x(3);
    const Tensor view = contract::view(x);
    comm.wait(s, comm.all_reduce(s, "bucket 6", view, view, ReduceOp::sum));
    if (comm.rank() == 0) {
      const Request request = comm.all_reduce(s, "bucket 7", view, view, ReduceOp::sum);
      waits = true;
      comm.wait(s, request);
      return;
    }
    while (!waits) std::this_thread::yield();
    std::vector<Json> stuck, late;
    do {  // until rank 0's thread has taken its call out of the queue
      for (const int rank : {0, 1}) std::filesystem::remove(folder.file(rank));
      ::raise(SIGUSR2);
      stuck = folder.lines(0), late = folder.lines(1);
    } while (stuck[2]["state"] == "queued");
    EXPECT_EQ(stuck[0]["made"], 2);
    EXPECT_EQ(stuck[0]["finished"], 1);
    EXPECT_EQ(stuck[2]["what"], "all_reduce \"bucket 7\" (sum, f32, 3 elements)");
    EXPECT_EQ(stuck[2]["state"], "running");
    EXPECT_EQ(late[0]["made"], 1);
    EXPECT_EQ(late[1]["digest"], stuck[1]["digest"]);
    comm.wait(s, comm.all_reduce(s, "bucket 7", view, view, ReduceOp::sum));
  });
}

// Runs `test` on local ranks that all record into `folder`; each rank's error is swallowed.
void record_failure(const Folder& folder, int ranks,
                    const std::function<void(Communicator&)>& test) {
  run_local_ranks(ranks, [&](Communicator& comm) {
    comm.set_flight_directory(folder.path().string());
    try {
      test(comm);
      ADD_FAILURE() << "rank " << comm.rank() << " did not fail";
    } catch (const Error&) {
    }
  });
}

TEST(Flight, ADeadlineWritesWhatEveryRankWaitedFor) {
  const Folder folder;
  GaveUp others;
  std::atomic<bool> there{false};  // rank 1, which is not late
  record_failure(folder, 3, [&](Communicator& comm) {
    const auto end = others.at_end(comm.rank() == 0);
    Stream s;
    comm.wait(s, comm.barrier(s, "start"));
    comm.set_deadline(comm.rank() == 0 ? 0.5 : 30);
    if (comm.rank() == 0) there.wait(false);
    if (comm.rank() == 2) others.wait();
    const Request request = comm.barrier(s, "end");
    if (comm.rank() == 1) {
      there = true;
      there.notify_all();
    }
    comm.wait(s, request);
  });
  for (int rank = 0; rank < 3; ++rank) {
    const std::vector<Json> lines = folder.lines(rank);
    EXPECT_EQ(lines[0]["why"], "failure");
    EXPECT_THAT(std::string(lines[0]["failure"]), HasSubstr("rank 2 last finished \"start\""));
    EXPECT_EQ(lines[2]["name"], "end");
    EXPECT_EQ(lines[2]["state"], "failed");
  }
  EXPECT_GT(folder.lines(2)[2]["started_us"], folder.lines(0)[2]["ended_us"]);
}

TEST(Flight, AMismatchAndAnAbortWriteToo) {
  const Folder differ, leave;
  record_failure(differ, 2, [](Communicator& comm) {
    Stream s;
    comm.wait(s, comm.barrier(s, comm.rank() == 0 ? "this" : "that"));
  });
  EXPECT_NE(differ.lines(0)[1]["digest"], differ.lines(1)[1]["digest"]);
  record_failure(leave, 2, [](Communicator& comm) {
    if (comm.rank() == 1) comm.abort("the loss is nan", 4);
    Stream s;
    comm.wait(s, comm.barrier(s, "end"));
  });
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(leave.lines(rank)[0]["failure"], "rank 1: the loss is nan");
  }
}

TEST(Flight, WrongInputWritesNothing) {
  const Folder folder;
  record_failure(folder, 2, [](Communicator& comm) {
    if (comm.rank() == 1) comm.abort("train.idx: cut short", 2);
    Stream s;
    comm.wait(s, comm.barrier(s, "end"));
  });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Flight, RemovesWhatAnEarlierLargerRunLeft) {
  const Folder folder;
  for (const int rank : {0, 1, 2, 7}) std::ofstream(folder.file(rank)) << "old";
  const std::filesystem::path unfinished = folder.path() / "flight-rank-3.jsonl.tmp";
  std::ofstream(unfinished) << "killed";
  const std::filesystem::path other = folder.path() / "flight-rank-x.jsonl";
  std::ofstream(other) << "not ours";
  run_local_ranks(2, [&](Communicator& comm) {
    comm.set_flight_directory(folder.path().string());
    Stream s;
    comm.wait(s, comm.barrier(s, "set"));
    for (const int rank : {0, 1, 2, 7}) EXPECT_FALSE(std::filesystem::exists(folder.file(rank)));
  });
  EXPECT_FALSE(std::filesystem::exists(unfinished));
  EXPECT_TRUE(std::filesystem::exists(other));
}

TEST(Flight, NamesOfAnyBytesMakeAFileThatReads) {
  const Folder folder;
  const std::string names[] = {"quote \" and \\ and \n",
                               "gr\xc3\xbc\xc3\x9f"
                               "e",
                               "cut \xe2\x82", "wrong \xff\xed\xa0\x80 surrogate",
                               std::string(80, '\xc3')};
  record_failure(folder, 1, [&](Communicator& comm) {
    Stream s;
    for (const std::string& name : names) comm.wait(s, comm.barrier(s, name));
    comm.abort("end", 3);
    throw Error(ErrorKind::peer, "test", "end");
  });
  const std::vector<Json> lines = folder.lines(0);
  EXPECT_EQ(lines[1]["name"], names[0]);
  EXPECT_EQ(lines[2]["name"], names[1]);
  EXPECT_EQ(lines[3]["name"], "cut ??");
  EXPECT_EQ(lines[4]["name"], "wrong ???? surrogate");
  EXPECT_EQ(lines[5]["name"], std::string(55, '?'));
}

}  // namespace
}  // namespace peal
