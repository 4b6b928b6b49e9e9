#include "launcher/flight_verdict.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <map>
#include <tuple>

#include "core/base/text.h"

namespace peal {
namespace {

using Kind = FlightVerdict::Kind;

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, seconds < 1 ? "%.3f s" : "%.1f s", seconds);
  return text;
}

double seconds_between(std::int64_t from_us, std::int64_t to_us) {
  return static_cast<double>(to_us - from_us) * 1e-6;
}

// rank 3 | ranks 0, 2 and 5
std::string rank_list(const std::vector<int>& ranks) {
  constexpr std::size_t kNamed = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < std::min(ranks.size(), kNamed); ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  if (ranks.size() > kNamed) text += cat(" and ", ranks.size() - kNamed, " more");
  return text;
}

std::vector<int> in_order(int a, int b) {
  return {std::min(a, b), std::max(a, b)};
}

// call 7, all_reduce "loss" (...) | call 2 between ranks 0 and 1, send "x" (to rank 1, ...)
std::string call_text(const FlightFileCall& call, int rank) {
  if (!call.is_pair()) return cat("call ", call.sequence, ", ", call.what);
  return cat("call ", call.sequence, " between ", rank_list(in_order(rank, call.peer)), ", ",
             call.what);
}

// The first call that two ranks made differently; 0: none.
std::uint64_t find_mismatch(const std::vector<FlightFile>& files) {
  std::map<std::uint64_t, const FlightFileCall*> made;
  std::uint64_t first = 0;
  for (const FlightFile& file : files) {
    for (const std::size_t index : file.of_all) {
      const FlightFileCall& call = file.calls[index];
      const FlightFileCall& other = *made.emplace(call.sequence, &call).first->second;
      if (other.digest != call.digest && (first == 0 || call.sequence < first)) {
        first = call.sequence;
      }
    }
  }
  return first;
}

const FlightFile* file_of(const std::vector<FlightFile>& files, int rank) {
  for (const FlightFile& file : files) {
    if (file.rank == rank) return &file;
  }
  return nullptr;
}

// A send and its recv have one digest. The earliest pair of calls that do not match.
bool judge_pair_mismatch(const std::vector<FlightFile>& files, FlightVerdict& verdict) {
  std::map<std::tuple<int, int, std::uint64_t>, const FlightFileCall*> made;  // rank, peer, number
  for (const FlightFile& file : files) {
    for (const FlightFileCall& call : file.calls) {
      if (call.is_pair()) made[{file.rank, call.peer, call.sequence}] = &call;
    }
  }
  const FlightFileCall* first = nullptr;
  for (const auto& [key, call] : made) {
    const auto [rank, peer, number] = key;
    const auto found = made.find({peer, rank, number});
    if (peer < rank || found == made.end()) continue;
    const FlightFileCall& other = *found->second;
    if (other.digest == call->digest && other.kind != call->kind) continue;
    if (first != nullptr && call->queued_us >= first->queued_us) continue;
    first = call;
    verdict.kind = Kind::mismatch;
    verdict.call = number;
    verdict.pair = verdict.late = {rank, peer};
    verdict.what = call->what;
    verdict.sentence =
        cat("ranks disagree in call ", number, " between ", rank_list(verdict.pair), ": ",
            call->what, " on rank ", rank, " but ", other.what, " on rank ", peer);
  }
  if (first != nullptr) verdict.details.push_back("one must receive what the other sends");
  return first != nullptr;
}

void judge_mismatch(const std::vector<FlightFile>& files, FlightVerdict& verdict) {
  std::map<std::string, std::vector<int>> ranks_of;  // by digest
  std::map<std::string, std::string> what;
  for (const FlightFile& file : files) {
    const FlightFileCall* call = file.call(verdict.call);
    if (call == nullptr) continue;
    ranks_of[call->digest].push_back(file.rank);
    what[call->digest] = call->what;
  }
  // The most common call; on a tie the one of the lowest rank.
  const auto common =
      std::max_element(ranks_of.begin(), ranks_of.end(), [](const auto& a, const auto& b) {
        return std::pair(a.second.size(), -a.second[0]) < std::pair(b.second.size(), -b.second[0]);
      });
  const std::string place = cat("call ", verdict.call);
  verdict.what = what[common->first];
  verdict.waiting = common->second;
  verdict.sentence =
      cat("ranks disagree in ", place, ": ", verdict.what, " on ", rank_list(common->second));
  for (const auto& [digest, ranks] : ranks_of) {
    if (digest == common->first) continue;
    verdict.sentence += cat(" but ", what[digest], " on ", rank_list(ranks));
    verdict.late.insert(verdict.late.end(), ranks.begin(), ranks.end());
  }
  std::sort(verdict.late.begin(), verdict.late.end());
  verdict.details.push_back("every rank must make the same calls in the same order");
}

// How long a wait is before somebody is to blame: short deadlines shorten it.
double patience(const std::vector<FlightFile>& files) {
  double seconds = 1;
  for (const FlightFile& file : files) seconds = std::min(seconds, file.deadline_seconds / 2);
  return std::max(seconds, 0.0);
}

class WaitJudge {
 public:
  WaitJudge(const std::vector<FlightFile>& files, FlightVerdict& verdict)
      : files_(files), verdict_(verdict), patience_(patience(files)) {}

  void judge() {
    find_call();
    if (call_ != nullptr) {
      for (const FlightFile& file : files_) {
        if (concerns(file.rank)) place(file);
      }
    }
    add_missing();
    decide();
  }

 private:
  // The oldest call of all that a rank is in, or else the pair's call that was begun first; and
  // when the first rank came to it.
  void find_call() {
    for (const FlightFile& file : files_) {
      const FlightFileCall* open = file.open_call();
      if (open == nullptr || !is_older(*open)) continue;
      call_ = open;
      owner_ = file.rank;
    }
    if (call_ == nullptr) return;
    verdict_.call = call_->sequence;
    verdict_.what = call_->what;
    if (call_->is_pair()) verdict_.pair = in_order(owner_, call_->peer);
    verdict_.since_us = call_->started_us;
    for (const FlightFile& file : files_) {
      const FlightFileCall* same = same_call(file);
      if (same == nullptr || same->state == FlightFileCall::State::queued) continue;
      verdict_.since_us = std::min(verdict_.since_us, same->started_us);
    }
  }

  bool is_older(const FlightFileCall& open) const {
    if (call_ == nullptr || open.is_pair() != call_->is_pair()) {
      return call_ == nullptr || call_->is_pair();
    }
    return open.is_pair() ? open.started_us < call_->started_us : open.sequence < call_->sequence;
  }

  bool concerns(int rank) const {
    return verdict_.pair.empty() || rank == owner_ || rank == call_->peer;
  }

  // The call in question as that rank made it; null: the file does not hold it.
  const FlightFileCall* same_call(const FlightFile& file) const {
    if (verdict_.pair.empty()) return file.call(call_->sequence);
    if (!concerns(file.rank)) return nullptr;
    return file.call_with(file.rank == owner_ ? call_->peer : owner_, call_->sequence);
  }

  bool has_finished(const FlightFile& file, const FlightFileCall* mine) const {
    if (mine != nullptr) return mine->state == FlightFileCall::State::finished;
    return verdict_.pair.empty() && file.has_finished(call_->sequence);
  }

  // Where a rank stands to the call in question.
  void place(const FlightFile& file) {
    const FlightFileCall* mine = same_call(file);
    if (has_finished(file, mine)) return verdict_.ahead.push_back(file.rank);
    if (mine != nullptr && mine->open()) {
      const double after = seconds_between(verdict_.since_us, mine->started_us);
      if (after >= patience_) {
        verdict_.late.push_back(file.rank);
        return explain(file, cat("came to it ", seconds_text(after), " after the first"));
      }
      verdict_.waiting.push_back(file.rank);
      const std::int64_t end = mine->ended_us != 0 ? mine->ended_us : file.written_us;
      verdict_.waited_seconds =
          std::max(verdict_.waited_seconds, seconds_between(mine->started_us, end));
      return;
    }
    if (file.elsewhere || file.open_call() != nullptr) return kept(file);
    const double since = seconds_between(verdict_.since_us, file.written_us);
    if (since < 0) {
      verdict_.missing.push_back(file.rank);
      explain(file, cat("wrote its file ", seconds_text(-since), " before that and none since"));
    } else if (since >= patience_) {
      verdict_.late.push_back(file.rank);
      explain(file, mine != nullptr ? "has it in its queue and has not begun" : "has not made it");
    }
  }

  // A rank that has not come because it waits itself.
  void kept(const FlightFile& file) {
    const FlightFileCall* open = file.open_call();
    const std::string where =
        open != nullptr ? call_text(*open, file.rank) : "a call of another communicator";
    kept_.push_back(cat("rank ", file.rank, " in ", where));
    verdict_.details.push_back(cat(file.rank_name, ": waits itself, in ", where));
  }

  void explain(const FlightFile& file, const std::string& what) {
    std::string line = cat(file.rank_name, ": ", what);
    if (const FlightFileCall* last = file.last_finished()) {
      line += cat("; it last finished ", call_text(*last, file.rank), ", ",
                  seconds_text(seconds_between(last->ended_us, file.written_us)),
                  " before it wrote this");
    } else {
      line += "; it has finished no call yet";
    }
    verdict_.details.push_back(line);
  }

  void add_missing() {
    std::vector<int> without;
    for (int rank = 0; rank < files_[0].ranks; ++rank) {
      if (file_of(files_, rank) == nullptr && (call_ == nullptr || concerns(rank))) {
        without.push_back(rank);
      }
    }
    if (without.empty()) return;
    verdict_.details.push_back(
        cat("no file from ", rank_list(without),
            ": killed or stopped, or not sent SIGUSR2, or it lies on another host"));
    verdict_.missing.insert(verdict_.missing.end(), without.begin(), without.end());
    std::sort(verdict_.missing.begin(), verdict_.missing.end());
  }

  void decide() {
    const bool failure = !verdict_.causes.empty();
    const bool long_wait = call_ != nullptr && verdict_.waited_seconds >= patience_;
    const bool blame_missing =
        call_ != nullptr && !verdict_.missing.empty() && (failure || long_wait);
    if (!verdict_.late.empty() || blame_missing) {
      say_late(blame_missing);
    } else if (long_wait && !kept_.empty()) {
      verdict_.kind = Kind::crossed;
      verdict_.sentence = cat("ranks wait for each other: ", rank_list(verdict_.waiting), " in ",
                              text(), ", but ", join(kept_));
      verdict_.details.push_back(
          "ranks must make all calls in one order, those of pairs and of "
          "other communicators too");
    } else if (long_wait) {
      verdict_.kind = Kind::stuck;
      verdict_.sentence = cat(verdict_.pair.empty() ? "all" : "both", " ranks are in ", text(),
                              ", since ", since(), ", and it does not end");
    } else if (failure) {
      verdict_.kind = Kind::ended;
      verdict_.sentence = cat("the job was ended: ", verdict_.causes[0]);
    } else {
      verdict_.sentence = call_ == nullptr ? "no rank is stuck: none was in a call"
                                           : cat("no rank is stuck: the oldest open call is ",
                                                 text(), ", since ", since());
    }
  }

  void say_late(bool blame_missing) {
    verdict_.kind = Kind::late;
    std::vector<int> who = verdict_.late;
    if (blame_missing) who.insert(who.end(), verdict_.missing.begin(), verdict_.missing.end());
    std::sort(who.begin(), who.end());
    verdict_.sentence = cat(rank_list(who), who.size() == 1 ? " is" : " are", " late for ", text());
    if (!verdict_.waiting.empty()) {
      verdict_.sentence +=
          cat(", in which ", rank_list(verdict_.waiting),
              verdict_.waiting.size() == 1 ? " waits" : " wait", " since ", since());
    }
    if (!verdict_.ahead.empty()) {
      verdict_.details.push_back(cat("ahead of it: ", rank_list(verdict_.ahead)));
    }
  }

  std::string text() const { return call_text(*call_, owner_); }
  std::string since() const {
    return cat(wall_time(verdict_.since_us), " (", seconds_text(verdict_.waited_seconds), ")");
  }

  const std::vector<FlightFile>& files_;
  FlightVerdict& verdict_;
  double patience_;
  const FlightFileCall* call_ = nullptr;
  int owner_ = 0;                  // whose file that is in
  std::vector<std::string> kept_;  // ranks that do not come because they wait themselves, and where
};

// Distinct failures, the earliest first.
std::vector<std::string> find_causes(const std::vector<FlightFile>& files) {
  std::vector<std::pair<std::int64_t, std::string>> all;
  for (const FlightFile& file : files) {
    if (!file.failure.empty()) all.emplace_back(file.written_us, file.failure);
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> causes;
  for (const auto& [when, text] : all) {
    if (std::find(causes.begin(), causes.end(), text) == causes.end()) causes.push_back(text);
  }
  return causes;
}

}  // namespace

FlightVerdict judge_flight(const std::vector<FlightFile>& files) {
  FlightVerdict verdict;
  verdict.causes = find_causes(files);
  verdict.call = find_mismatch(files);
  if (verdict.call != 0) {
    verdict.kind = Kind::mismatch;
    judge_mismatch(files, verdict);
  } else if (!judge_pair_mismatch(files, verdict)) {
    WaitJudge(files, verdict).judge();
  }
  return verdict;
}

std::string_view name_of(Kind kind) {
  constexpr std::string_view names[] = {"mismatch", "late", "stuck", "crossed", "ended", "clear"};
  return names[static_cast<int>(kind)];
}

std::string wall_time(std::int64_t microseconds) {
  const std::time_t seconds = microseconds / 1'000'000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[64];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
  std::snprintf(text + length, sizeof text - length, ".%03d UTC",
                static_cast<int>(microseconds / 1000 % 1000));
  return text;
}

}  // namespace peal
