// Files of the flight recorder are read or refused with a reason, and judged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "comm/communicator.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "launcher/flight_verdict.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Kind = FlightVerdict::Kind;
using State = FlightFileCall::State;

constexpr std::int64_t kStart = 1'795'626'000'000'000;  // 2026-11-25 17:00 UTC
constexpr std::int64_t kSecond = 1'000'000;

// A rank that has finished `finished` calls, one a millisecond, and writes at `written`.
FlightFile finished(int rank, int ranks, int calls, std::int64_t written) {
  FlightFile file;
  file.rank = rank;
  file.ranks = ranks;
  file.rank_name = cat("rank ", rank, " (node", rank, ")");
  file.why = "SIGUSR2";
  file.deadline_seconds = 60;
  file.written_us = written;
  for (int i = 1; i <= calls; ++i) {
    FlightFileCall call;
    call.sequence = static_cast<std::uint64_t>(i);
    call.state = State::finished;
    call.what = cat("all_reduce \"bucket ", i, "\" (sum, f32, 10 elements)");
    call.digest = hex(call.sequence);
    call.queued_us = call.started_us = kStart + i * 1000;
    call.ended_us = call.started_us + 500;
    file.calls.push_back(call);
    file.of_all.push_back(file.calls.size() - 1);
  }
  file.made = file.finished = static_cast<std::uint64_t>(calls);
  return file;
}

// And is in one more since `since`.
FlightFile waiting(int rank, int ranks, int calls, std::int64_t since, std::int64_t written) {
  FlightFile file = finished(rank, ranks, calls + 1, written);
  FlightFileCall& last = file.calls.back();
  last.state = State::running;
  last.queued_us = last.started_us = since;
  last.ended_us = 0;
  --file.finished;
  return file;
}

FlightFile failed(FlightFile file, const std::string& cause) {
  file.failure = cause;
  file.why = "failure";
  if (file.finished < file.made) {
    file.calls.back().state = State::failed;
    file.calls.back().ended_us = file.written_us;
  }
  return file;
}

// Call `number` with a peer: made last, and open since `since`.
void add_pair_call(FlightFile& file, const char* kind, int peer, std::uint64_t number,
                   std::int64_t since) {
  FlightFileCall call;
  call.kind = kind;
  call.peer = peer;
  call.sequence = number;
  call.state = State::running;
  call.what = cat(kind, " \"x\" (", call.kind == "send" ? "to" : "from", " rank ", peer,
                  ", f32, 4 elements)");
  call.digest = "same";
  call.queued_us = call.started_us = since;
  file.calls.push_back(call);
  ++file.made;
}

std::string first_detail(const FlightVerdict& v) {
  return v.details.empty() ? "" : v.details[0];
}

TEST(Verdict, NamesTheRankThatHasNotMadeTheCall) {
  const std::int64_t since = kStart + kSecond, now = since + 5 * kSecond;
  const FlightVerdict v = judge_flight(
      {waiting(0, 3, 56, since, now), finished(1, 3, 56, now), waiting(2, 3, 56, since + 9, now)});
  EXPECT_EQ(v.kind, Kind::late);
  EXPECT_EQ(v.sentence,
            "rank 1 is late for call 57, all_reduce \"bucket 57\" (sum, f32, 10 elements), in "
            "which ranks 0 and 2 wait since 2026-11-25 17:00:01.000 UTC (5.0 s)");
  EXPECT_THAT(v.late, ElementsAre(1));
  EXPECT_THAT(v.waiting, ElementsAre(0, 2));
  EXPECT_EQ(v.call, 57u);
  EXPECT_EQ(v.since_us, since);
  ASSERT_EQ(v.details.size(), 1u);
  EXPECT_THAT(first_detail(v),
              StartsWith("rank 1 (node1): has not made it; it last finished call 56, "
                         "all_reduce \"bucket 56\""));
}

TEST(Verdict, ARankWithTheCallInItsQueueIsLateToo) {
  const std::int64_t now = kStart + 5 * kSecond;
  FlightFile late = waiting(1, 2, 56, kStart + kSecond, now);
  late.calls.back().state = State::queued;
  const FlightVerdict v = judge_flight({waiting(0, 2, 56, kStart + kSecond, now), late});
  EXPECT_THAT(v.late, ElementsAre(1));
  EXPECT_THAT(first_detail(v), HasSubstr("has it in its queue and has not begun"));
}

TEST(Verdict, ARankThatCameTooLateIsNamed) {
  const std::int64_t since = kStart + kSecond, now = since + 3 * kSecond;
  const std::string cause = "rank 0: waited 2 s";
  const FlightVerdict v =
      judge_flight({failed(waiting(0, 2, 56, since, since + 2 * kSecond), cause),
                    failed(waiting(1, 2, 56, now, now), cause)});
  EXPECT_EQ(v.kind, Kind::late);
  EXPECT_THAT(v.late, ElementsAre(1));
  EXPECT_THAT(first_detail(v), HasSubstr("came to it 3.0 s after the first"));
  EXPECT_THAT(v.causes, ElementsAre(cause));
}

TEST(Verdict, ARankWithoutAFileIsSuspectedAfterAFailure) {
  const std::int64_t since = kStart + kSecond, now = since + 20'000;
  const FlightVerdict v = judge_flight({failed(waiting(0, 3, 56, since, now), "rank 1 is gone"),
                                        failed(waiting(2, 3, 56, since, now), "rank 1 is gone")});
  EXPECT_EQ(v.kind, Kind::late);
  EXPECT_THAT(v.sentence, StartsWith("rank 1 is late for call 57"));
  EXPECT_THAT(v.missing, ElementsAre(1));
  EXPECT_THAT(v.late, IsEmpty());
}

TEST(Verdict, AFileFromBeforeTheCallSaysNothingOfIt) {
  const std::int64_t since = kStart + 100 * kSecond, now = since + 2 * kSecond;
  const FlightVerdict v = judge_flight(
      {failed(waiting(0, 2, 56, since, now), "waited"), finished(1, 2, 7, kStart + kSecond)});
  EXPECT_EQ(v.kind, Kind::late);
  EXPECT_THAT(v.late, IsEmpty());
  EXPECT_THAT(v.missing, ElementsAre(1));
  EXPECT_THAT(first_detail(v), HasSubstr("wrote its file 99.0 s before that and none since"));
}

TEST(Verdict, BlamesTheOldestOpenCall) {
  // Rank 0 is past call 56, which rank 1 cannot end without rank 2.
  const std::int64_t since = kStart + kSecond, now = since + 9 * kSecond;
  const FlightVerdict v = judge_flight(
      {waiting(0, 3, 56, since, now), waiting(1, 3, 55, since, now), finished(2, 3, 55, now)});
  EXPECT_EQ(v.call, 56u);
  EXPECT_THAT(v.late, ElementsAre(2));
  EXPECT_THAT(v.ahead, ElementsAre(0));
}

TEST(Verdict, AHealthyRunIsNotAccused) {
  const std::int64_t now = kStart + kSecond;
  const FlightVerdict moving =
      judge_flight({waiting(0, 3, 56, now - 2000, now), finished(1, 3, 55, now - 9000),
                    finished(2, 3, 56, now)});
  EXPECT_EQ(moving.kind, Kind::clear);
  EXPECT_THAT(moving.sentence, StartsWith("no rank is stuck: the oldest open call is call 57"));
  const FlightVerdict idle = judge_flight({finished(0, 2, 5, now), finished(1, 2, 5, now)});
  EXPECT_EQ(idle.sentence, "no rank is stuck: none was in a call");
}

TEST(Verdict, AllInOneCallIsStuck) {
  const std::int64_t since = kStart + kSecond, now = since + 9 * kSecond;
  const FlightVerdict v =
      judge_flight({waiting(0, 2, 5, since, now), waiting(1, 2, 5, since + 99, now)});
  EXPECT_EQ(v.kind, Kind::stuck);
  EXPECT_THAT(v.sentence, HasSubstr("all ranks are in call 6"));
}

TEST(Verdict, AnAbortIsTheVerdict) {
  const std::int64_t now = kStart + kSecond;
  const std::string cause = "rank 1: the loss is nan";
  const FlightVerdict v = judge_flight(
      {failed(waiting(0, 2, 5, now - 900, now), cause), failed(finished(1, 2, 5, now), cause)});
  EXPECT_EQ(v.kind, Kind::ended);
  EXPECT_EQ(v.sentence, "the job was ended: rank 1: the loss is nan");
}

TEST(Verdict, TheFirstCallThatDiffersIsNamed) {
  const std::int64_t now = kStart + kSecond;
  std::vector<FlightFile> files = {finished(0, 3, 9, now), finished(1, 3, 9, now),
                                   finished(2, 3, 9, now)};
  for (const std::size_t call : {7, 8}) {
    files[0].calls[call].digest = hex(99);
    files[0].calls[call].what = "barrier \"epoch\"";
  }
  const FlightVerdict v = judge_flight(files);
  EXPECT_EQ(v.kind, Kind::mismatch);
  EXPECT_EQ(v.sentence,
            "ranks disagree in call 8: all_reduce \"bucket 8\" (sum, f32, 10 elements) on ranks 1 "
            "and 2 but barrier \"epoch\" on rank 0");
  EXPECT_THAT(v.late, ElementsAre(0));
}

TEST(Verdict, APeerThatHasNotComeToItsCallIsNamed) {
  const std::int64_t since = kStart + kSecond, now = since + 5 * kSecond;
  std::vector<FlightFile> files = {finished(0, 3, 5, now), finished(1, 3, 5, now),
                                   finished(2, 3, 5, now)};
  add_pair_call(files[0], "send", 2, 3, since);
  const FlightVerdict v = judge_flight(files);
  EXPECT_EQ(v.kind, Kind::late);
  EXPECT_EQ(v.sentence,
            "rank 2 is late for call 3 between ranks 0 and 2, send \"x\" (to rank 2, f32, 4 "
            "elements), in which rank 0 waits since 2026-11-25 17:00:01.000 UTC (5.0 s)");
  EXPECT_THAT(v.late, ElementsAre(2));
  EXPECT_THAT(v.pair, ElementsAre(0, 2));
}

// Rank 2 is not there; rank 0 waits for it, and so is not what keeps rank 1 in the world's call.
TEST(Verdict, ARankInACallOfAPairIsNotBlamed) {
  const std::int64_t since = kStart + kSecond, now = since + 5 * kSecond;
  std::vector<FlightFile> files = {finished(0, 3, 5, now), waiting(1, 3, 5, since, now)};
  add_pair_call(files[0], "recv", 2, 1, since + 1000);
  const FlightVerdict v = judge_flight(files);
  EXPECT_EQ(v.kind, Kind::late);
  EXPECT_THAT(v.sentence, StartsWith("rank 2 is late for call 6, all_reduce \"bucket 6\""));
  EXPECT_THAT(v.late, IsEmpty());
  EXPECT_THAT(v.missing, ElementsAre(2));
  EXPECT_THAT(first_detail(v), HasSubstr("waits itself, in call 1 between ranks 0 and 2, recv"));
}

TEST(Verdict, ARankInACallOfAnotherCommunicatorIsNotBlamed) {
  const std::int64_t since = kStart + kSecond, now = since + 5 * kSecond;
  FlightFile elsewhere = failed(finished(0, 3, 5, now), "rank 2 is late");
  elsewhere.elsewhere = true;
  const FlightVerdict v =
      judge_flight({elsewhere, failed(waiting(1, 3, 5, since, now), "rank 2 is late")});
  EXPECT_THAT(v.sentence, StartsWith("rank 2 is late for call 6, all_reduce \"bucket 6\""));
  EXPECT_THAT(v.late, IsEmpty());
  EXPECT_THAT(v.missing, ElementsAre(2));
}

TEST(Verdict, RanksThatWaitForEachOtherAreBothNamed) {
  const std::int64_t since = kStart + kSecond, now = since + 5 * kSecond;
  std::vector<FlightFile> files = {finished(0, 2, 5, now), waiting(1, 2, 5, since, now)};
  add_pair_call(files[0], "send", 1, 1, since + 1000);
  const FlightVerdict v = judge_flight(files);
  EXPECT_EQ(v.kind, Kind::crossed);
  EXPECT_EQ(v.sentence,
            "ranks wait for each other: rank 1 in call 6, all_reduce \"bucket 6\" (sum, f32, 10 "
            "elements), but rank 0 in call 1 between ranks 0 and 1, send \"x\" (to rank 1, f32, 4 "
            "elements)");
}

TEST(Verdict, TwoThatBothSendDisagree) {
  const std::int64_t since = kStart + kSecond, now = since + 5 * kSecond;
  std::vector<FlightFile> files = {finished(0, 2, 5, now), finished(1, 2, 5, now)};
  add_pair_call(files[0], "send", 1, 4, since);
  add_pair_call(files[1], "recv", 0, 4, since);
  EXPECT_EQ(judge_flight(files).kind, Kind::stuck);
  files[1].calls.back().digest = "other";
  EXPECT_EQ(judge_flight(files).kind, Kind::mismatch);
  files[1] = finished(1, 2, 5, now);
  add_pair_call(files[1], "send", 0, 4, since);
  const FlightVerdict v = judge_flight(files);
  EXPECT_EQ(v.kind, Kind::mismatch);
  EXPECT_EQ(v.sentence,
            "ranks disagree in call 4 between ranks 0 and 1: send \"x\" (to rank 1, f32, 4 "
            "elements) on rank 0 but send \"x\" (to rank 0, f32, 4 elements) on rank 1");
  EXPECT_THAT(v.late, ElementsAre(0, 1));
}

class Files : public ::testing::Test {
 protected:
  // Two local ranks that fail alike.
  void record(const std::function<void(Communicator&)>& test) const {
    try {
      run_local_ranks(2, [&](Communicator& comm) {
        comm.set_flight_directory((folder_ / "flight").string());
        test(comm);
      });
      ADD_FAILURE() << "no rank failed";
    } catch (const Error&) {
    }
  }

  void expect_refused(const std::string& text, const std::string& message) const {
    const std::filesystem::path path = folder_ / "flight" / "flight-rank-0.jsonl";
    write_file_atomically(path, text);
    try {
      read_flight_files(folder_);
      ADD_FAILURE() << "read: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      EXPECT_EQ(error.where(), path.string());
      EXPECT_THAT(error.message(), HasSubstr(message));
    }
  }

  TemporaryFolder temporary_;
  const std::filesystem::path& folder_ = temporary_.path();
};

// With a last line that fits.
std::string sealed(const std::string& body) {
  const auto calls = std::count(body.begin(), body.end(), '\n') - 1;
  return body +
         cat("{\"calls\":", calls, ",\"xxh64\":\"", hex(xxh64(body.data(), body.size())), "\"}\n");
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST_F(Files, RanksThatDisagreeAreReadAndNamed) {
  record([](Communicator& comm) {
    Stream s;
    std::vector<float> x(comm.rank() == 1 ? 11 : 10);
    const Tensor view{x.data(), {static_cast<std::int64_t>(x.size())}};
    comm.wait(s, comm.barrier(s, "start"));
    comm.wait(s, comm.all_reduce(s, "loss", view, view, ReduceOp::sum));
  });
  const std::vector<FlightFile> files = read_flight_files(folder_);
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[1].rank, 1);
  EXPECT_EQ(files[1].ranks, 2);
  EXPECT_EQ(files[1].made, 2u);
  EXPECT_EQ(files[1].finished, 1u);
  EXPECT_EQ(files[1].open_call(), files[1].call(2));
  ASSERT_NE(files[1].call(2), nullptr);
  EXPECT_EQ(files[1].call(2)->elements, 11);
  EXPECT_EQ(files[1].call(3), nullptr);
  const FlightVerdict v = judge_flight(files);
  EXPECT_EQ(v.kind, Kind::mismatch);
  EXPECT_EQ(v.sentence,
            "ranks disagree in call 2: all_reduce \"loss\" (sum, f32, 10 elements) on rank 0 but "
            "all_reduce \"loss\" (sum, f32, 11 elements) on rank 1");
  EXPECT_THAT(v.causes[0], StartsWith("ranks out of step: call 2 is all_reduce \"loss\""));
}

TEST_F(Files, CallsOfPairsAreReadAndJudged) {
  record([](Communicator& comm) {
    Stream s;
    float x[4] = {};
    const int peer = 1 - comm.rank();
    const auto pass = [&](const char* name, std::int64_t sent) {
      comm.wait(s, comm.rank() == 0 ? comm.send(s, name, {x, {sent}}, peer)
                                    : comm.recv(s, name, {x, {4}}, peer));
    };
    pass("first", 4);
    comm.wait(s, comm.barrier(s, "between"));
    pass("second", 3);
  });
  const std::vector<FlightFile> files = read_flight_files(folder_);
  ASSERT_EQ(files.size(), 2u);
  ASSERT_EQ(files[1].calls.size(), 3u);
  EXPECT_EQ(files[1].calls[0].what, "recv \"first\" (from rank 0, f32, 4 elements)");
  EXPECT_EQ(files[1].calls[0].peer, 0);
  EXPECT_EQ(files[1].call(1), &files[1].calls[1]);
  EXPECT_EQ(files[1].call_with(0, 2), &files[1].calls[2]);
  EXPECT_EQ(files[1].open_call(), &files[1].calls[2]);
  EXPECT_EQ(files[1].last_finished(), &files[1].calls[1]);
  const FlightVerdict v = judge_flight(files);
  EXPECT_EQ(v.kind, Kind::mismatch);
  EXPECT_EQ(v.sentence,
            "ranks disagree in call 2 between ranks 0 and 1: send \"second\" (to rank 1, f32, 3 "
            "elements) on rank 0 but recv \"second\" (from rank 0, f32, 4 elements) on rank 1");
}

TEST_F(Files, DamageIsNamed) {
  record([](Communicator& comm) {
    Stream s;
    comm.wait(s, comm.barrier(s, "start"));
    throw Error(ErrorKind::peer, "test", "end");
  });
  const std::string good = read_file(folder_ / "flight" / "flight-rank-0.jsonl");
  ASSERT_NO_THROW(read_flight_files(folder_));
  for (const std::size_t cut : {std::size_t{0}, std::size_t{1}, good.size() / 2, good.size() - 1}) {
    expect_refused(good.substr(0, cut), "is cut short, or no flight record");
  }
  expect_refused(replaced(good, "start", "tsart"), "its checksum does not match");
  expect_refused(good + "more", "line 3 is not the end of the file");
  expect_refused(sealed("[]\n"), "line 1 is no JSON object");

  const std::string body = good.substr(0, good.find("{\"calls\":"));
  const auto changed = [&](const std::string& from, const std::string& to) {
    return sealed(replaced(body, from, to));
  };
  ASSERT_EQ(sealed(body), good);
  expect_refused(changed("\"rank\":0", "\"rank\":2"),
                 "line 1 rank is 2; a whole number from 0 to 1 is needed");
  expect_refused(changed("\"rank\":0", "\"rank\":1"), "is of rank 1");
  expect_refused(changed("\"rank\":0", "\"rank\":0.5"), "line 1 rank is 0.5");
  expect_refused(changed("\"made\":1", "\"made\":18446744073709551615"),
                 "line 1 made is 184467440");
  expect_refused(changed("\"made\":1", "\"mode\":1"), "line 1 has no made");
  expect_refused(changed("\"peal_flight\":2", "\"peal_flight\":1"), "line 1 peal_flight is 1");
  expect_refused(changed("\"call\":1", "\"call\":2"),
                 "line 2 call is 2; a whole number from 1 to 1 is needed");
  expect_refused(changed("\"kind\":\"barrier\"", "\"kind\":\"send\""), "line 2 has no peer");
  expect_refused(changed("\"kind\":\"barrier\"", "\"kind\":\"send\",\"peer\":0"),
                 "line 2 peer is 0, the rank itself");
  expect_refused(changed("\"kind\":\"barrier\"", "\"kind\":\"recv\",\"peer\":2"),
                 "line 2 peer is 2; a whole number from 0 to 1 is needed");
  expect_refused(changed("\"state\":\"finished\"", "\"state\":\"lost\""),
                 "line 2 has the state \"lost\"");
  expect_refused(changed("\"digest\":\"", "\"digest\":1,\"x\":\""), "line 2 has no text digest");
  expect_refused(sealed(body + body.substr(body.find('\n') + 1)), "holds 2 calls of 1");
}

TEST_F(Files, FilesOfTwoJobsAreNotMixed) {
  record([](Communicator&) { throw Error(ErrorKind::peer, "test", "end"); });
  const std::filesystem::path second = folder_ / "flight" / "flight-rank-1.jsonl";
  std::string body = read_file(second);
  body = replaced(body.substr(0, body.find("{\"calls\":")), "\"ranks\":2", "\"ranks\":3");
  write_file_atomically(second, sealed(body));
  EXPECT_THAT([&] { read_flight_files(folder_); },
              ::testing::ThrowsMessage<Error>(HasSubstr("is of a job of 3 ranks")));
}

TEST_F(Files, AFolderWithoutFilesIsNamed) {
  EXPECT_THAT([&] { read_flight_files(folder_); },
              ::testing::ThrowsMessage<Error>(
                  StartsWith(folder_.string() + ": holds no flight-rank-*.jsonl")));
}

TEST_F(Files, ControlCharactersDoNotReachTheTerminal) {
  record([](Communicator& comm) {
    Stream s;
    comm.wait(s, comm.barrier(s, "\x1b[2J"));
    throw Error(ErrorKind::peer, "test", "end");
  });
  EXPECT_EQ(read_flight_files(folder_)[0].calls[0].name, "?[2J");
}

}  // namespace
}  // namespace peal
