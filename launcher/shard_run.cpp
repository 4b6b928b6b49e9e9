#include "launcher/shard_run.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/config/job.h"
#include "launcher/job_setup.h"
#include "launcher/progress.h"
#include "launcher/shard_lock.h"
#include "launcher/shard_record.h"
#include "launcher/shared_work.h"
#include "launcher/train.h"
#include "launcher/version.h"

namespace peal {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kClassesFile = "classes.txt";
constexpr const char* kSkippedFile = "skipped.txt";
constexpr double kWaitForLock = 20;  // seconds: a run that was just killed may hold it for a moment

struct Range {
  std::int64_t begin, end;
};

// The share of a rank of n things, as equal as can be.
Range share(std::int64_t n, const Communicator& comm) {
  const auto at = [&](std::int64_t rank) {
    const std::int64_t ranks = comm.world_size();
    return n / ranks * rank + std::min(rank, n % ranks);
  };
  return {at(comm.rank()), at(comm.rank() + 1)};
}

void add_up(Communicator& comm, const char* name, std::span<std::int64_t> numbers) {
  Stream s;
  const Tensor all{numbers.data(), {static_cast<std::int64_t>(numbers.size())}, DType::i64};
  comm.wait(s, comm.all_reduce(s, name, all, all, ReduceOp::sum));
}

// Rank 0's text on every rank.
void share_text(Communicator& comm, std::string& text) {
  Stream s;
  auto size = static_cast<std::int64_t>(text.size());
  comm.wait(s, comm.broadcast(s, "text size", {&size, {1}, DType::i64}, 0));
  text.resize(static_cast<std::size_t>(size));
  comm.wait(s, comm.broadcast(s, "text", {text.data(), {size}, DType::u8}, 0));
}

// Every rank's texts, one behind another, on every rank.
std::string join_texts(Communicator& comm, const std::string& mine) {
  Stream s;
  auto size = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(comm.world_size()));
  comm.wait(s, comm.all_gather(s, "text sizes", {&size, {1}, DType::i64},
                               {sizes.data(), {comm.world_size()}, DType::i64}));
  std::int64_t all = 0;
  for (const std::int64_t n : sizes) all += n;
  std::string text(static_cast<std::size_t>(all), '\0');
  std::string copy = mine;
  comm.wait(s, comm.all_gather(s, "texts", {copy.data(), {size}, DType::u8},
                               {text.data(), {all}, DType::u8}, sizes));
  return text;
}

// How far all ranks are: redrawn on a terminal, else a line every five seconds.
class WorkProgress {
 public:
  WorkProgress(const char* action, std::int64_t all, bool enabled, bool terminal)
      : action_(action), all_(all), terminal_(terminal), progress_(enabled, terminal) {}

  void show(std::int64_t done) {
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - start_).count();
    if (done == 0 || done >= all_) return;
    const double rate = static_cast<double>(done) / seconds;
    const std::string line =
        cat(action_, " ", done, " of ", all_, " records, ", std::llround(rate), " a second, left ",
            clock_text(static_cast<double>(all_ - done) / rate));
    if (terminal_) {
      progress_.note(line);
    } else if (now - said_ >= std::chrono::seconds(5)) {
      said_ = now;
      progress_.say(line);
    }
  }

 private:
  const char* action_;
  std::int64_t all_;
  bool terminal_;
  Progress progress_;
  Clock::time_point start_ = Clock::now(), said_ = start_;
};

class Sharding {
 public:
  Sharding(const ShardRun& run, Communicator& comm) : run_(run), comm_(comm) {}

  ShardResult make() {
    open();
    const bool going_on = share_record();
    ShardResult result{.skipped = static_cast<std::int64_t>(record_.skipped.size())};
    if (!going_on) {
      if (!survey()) return result;
      result.skipped = static_cast<std::int64_t>(record_.skipped.size());
    }
    together(comm_, [&] { plan(going_on); });
    find_complete();
    result.kept = complete();
    result.shards = plan_->count();
    result.records = plan_->records();
    result.finished = write();
    result.written = complete() - result.kept;
    if (result.finished) together(comm_, [&] { finish(); });
    return result;
  }

 private:
  bool first_rank() const { return comm_.rank() == 0; }
  std::int64_t complete() const {
    return std::count_if(sums_.begin(), sums_.end(), [](std::int64_t sum) { return sum != 0; });
  }

  // What is asked, the same on every rank.
  void open() {
    together(comm_, [&] {
      source_ = open_record_source(run_.source);
      record_.source = effective_source(run_.source);
      record_.count = run_.options.count;
      record_.bytes_per_shard = run_.options.bytes_per_shard;
      record_.records = run_.source.limit() > 0 ? std::min(run_.source.limit(), source_->size())
                                                : source_->size();
    });
    agree(comm_, {{"peal", build()},
                  {"source", record_.source},
                  {"records", std::to_string(record_.records)},
                  {"record shape", to_string(source_->record_shape())}});
    std::int64_t files = 0;
    together(comm_, [&] {
      const Range mine = share(source_->files(), comm_);
      files = static_cast<std::int64_t>(fingerprint_files(*source_, mine.begin, mine.end));
    });
    add_up(comm_, "fingerprint", {&files, 1});
    record_.files = static_cast<std::uint64_t>(files);
  }

  // Whether there is a record of the same sharding; it then says what was skipped.
  bool share_record() {
    std::string text;
    together(comm_, [&] { make_folders(run_.out); });
    lock_ = std::make_unique<ShardLock>(run_.out, comm_, kWaitForLock);
    together(comm_, [&] {
      if (!first_rank()) return;
      const std::string where = shard_record_path(run_.out).string();
      if (run_.fresh) {
        remove_shards(run_.out);
        for (const char* name : {kClassesFile, kSkippedFile}) fs::remove(run_.out / name);
        fs::remove(shard_record_path(run_.out));
        return;
      }
      if (const auto there = read_shard_record(run_.out)) {
        check_same_sharding(parse_shard_record(*there, where), record_, where);
        text = *there;
      } else if (has_shard_manifest(run_.out) || has_shards(run_.out)) {
        fail_input(run_.out.string(),
                   "holds shards, but no sharding.json that tells of what; "
                   "choose another --out, or --fresh to remove them");
      }
    });
    share_text(comm_, text);
    if (text.empty()) return false;
    together(comm_,
             [&] { record_ = parse_shard_record(text, shard_record_path(run_.out).string()); });
    return true;
  }

  // Looks for corrupt records, where those are to be skipped: which they are must be known before
  // equal shards can be cut. False when stopped.
  bool survey() {
    if (!skips_corrupt(run_.source)) return true;
    std::string lines;
    WorkProgress progress("checking", record_.records, first_rank(), run_.terminal);
    SharedWork work(comm_, [&](std::int64_t done) { progress.show(done); });
    const bool finished = work.run([&] {
      const Range mine = share(record_.records, comm_);
      for (std::int64_t i = mine.begin; i < mine.end && work.go_on(i - mine.begin); ++i) {
        if (auto why = source_->corruption(i)) {
          std::replace(why->begin(), why->end(), '\n', ' ');
          lines += cat(i, " ", *why, "\n");
        }
      }
    });
    if (!finished) return false;
    std::istringstream all(join_texts(comm_, lines));
    for (SkippedRecord s; all >> s.record && all.get() && std::getline(all, s.why);) {
      record_.skipped.push_back(s);
    }
    return true;
  }

  void plan(bool going_on) {
    std::vector<std::int64_t> skipped;
    for (const SkippedRecord& s : record_.skipped) skipped.push_back(s.record);
    plan_ =
        std::make_unique<ShardPlan>(*source_, record_.records, std::move(skipped), run_.options);
    if (first_rank() && !going_on) write_shard_record(record_, run_.out);
  }

  void find_complete() {
    sums_.assign(static_cast<std::size_t>(plan_->count()), 0);
    together(comm_, [&] {
      const Range mine = share(plan_->count(), comm_);
      for (std::int64_t i = mine.begin; i < mine.end; ++i) {
        const auto sum = find_shard(*plan_, i, run_.out);
        sums_[static_cast<std::size_t>(i)] = static_cast<std::int64_t>(sum.value_or(0));
      }
    });
    add_up(comm_, "shards there", sums_);
  }

  bool write() {
    std::vector<std::int64_t> missing;
    std::int64_t records = 0;
    for (std::int64_t i = 0; i < plan_->count(); ++i) {
      if (sums_[static_cast<std::size_t>(i)] != 0) continue;
      missing.push_back(i);
      records += plan_->records(i);
    }
    const Range mine = share(static_cast<std::int64_t>(missing.size()), comm_);
    std::vector<std::int64_t> written(sums_.size());
    WorkProgress progress("writing", records, first_rank(), run_.terminal);
    SharedWork work(comm_, [&](std::int64_t done) { progress.show(done); });
    const bool finished = work.run([&] {
      std::int64_t before = 0;
      for (std::int64_t i = mine.begin; i < mine.end; ++i) {
        const std::int64_t shard = missing[static_cast<std::size_t>(i)];
        const auto sum = write_shard(*source_, *plan_, shard, run_.out,
                                     [&](std::int64_t done) { return work.go_on(before + done); });
        if (!sum) return;
        written[static_cast<std::size_t>(shard)] = static_cast<std::int64_t>(*sum);
        before += plan_->records(shard);
      }
      work.go_on(before);
    });
    add_up(comm_, "shards written", written);
    for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] += written[i];
    return finished;
  }

  void finish() {
    if (!first_rank()) return;
    std::string classes, skipped;
    for (const std::string& name : source_->classes()) classes += name + "\n";
    for (const SkippedRecord& s : record_.skipped) skipped += cat(s.record, " ", s.why, "\n");
    if (!classes.empty()) write_file_atomically(run_.out / kClassesFile, classes);
    if (!skipped.empty()) write_file_atomically(run_.out / kSkippedFile, skipped);
    if (has_shard_manifest(run_.out)) return;
    std::vector<std::uint64_t> sums(sums_.begin(), sums_.end());
    write_shard_manifest(*plan_, sums, run_.out);
  }

  const ShardRun& run_;
  Communicator& comm_;
  std::unique_ptr<ShardLock> lock_;
  std::unique_ptr<RecordSource> source_;
  ShardRecord record_;
  std::unique_ptr<ShardPlan> plan_;
  std::vector<std::int64_t> sums_;  // of the headers of complete shards; 0: not there
};

}  // namespace

ShardResult make_shards(const ShardRun& run, Communicator& comm) {
  return Sharding(run, comm).make();
}

std::optional<std::int64_t> verify_on_ranks(const fs::path& directory, Communicator& comm,
                                            bool terminal) {
  std::unique_ptr<ShardVerifier> shards;
  together(comm, [&] { shards = std::make_unique<ShardVerifier>(directory); });
  WorkProgress progress("verifying", shards->records(), comm.rank() == 0, terminal);
  SharedWork work(comm, [&](std::int64_t done) { progress.show(done); });
  const bool finished = work.run([&] {
    const Range mine = share(shards->count(), comm);
    std::int64_t done = 0;
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      if (!shards->verify(i, [&] { return work.go_on(done); })) return;
      done += shards->records(i);
    }
    work.go_on(done);
  });
  if (!finished) return {};
  return shards->records();
}

}  // namespace peal
