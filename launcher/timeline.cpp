#include "launcher/timeline.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/file.h"
#include "launcher/train.h"

namespace peal {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kDefaultSteps = 100;
constexpr std::size_t kSpareSpans = 64;    // evaluations and checkpoints
constexpr std::size_t kSpareCalls = 1024;  // evaluations, agreements
constexpr std::size_t kCheckpointSpans = 1024;
constexpr std::size_t kCallsAtATime = 64;

bool read_number(const char*& at, const char* end, std::int64_t& value) {
  const auto [next, code] = std::from_chars(at, end, value);
  at = next;
  return code == std::errc() && value > 0;
}

std::string json_text(std::string_view text) {
  return Json(text).dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

// One event a line: {"ph":...,"pid":rank,"tid":thread,...}.
class Events {
 public:
  Events(std::string& out, int rank) : out_(out), rank_(rank) {}

  void metadata(int thread, const char* name, const std::string& arguments) {
    begin("M", thread, name);
    end(arguments);
  }
  void span(int thread, const char* category, std::string_view name, double begin_seconds,
            double end_seconds, const std::string& arguments) {
    begin("X", thread, name);
    out_ += cat(",\"cat\":\"", category, "\",\"ts\":", microseconds(begin_seconds),
                ",\"dur\":", microseconds(std::max(0.0, end_seconds - begin_seconds)));
    end(arguments);
  }
  // One end of a span that may overlap others of its thread.
  void edge(const char* phase, int thread, const char* category, std::string_view name,
            const std::string& id, double seconds, const std::string& arguments) {
    begin(phase, thread, name);
    out_ += cat(",\"cat\":\"", category, "\",\"id\":\"", id, "\",\"ts\":", microseconds(seconds));
    end(arguments);
  }

 private:
  static std::string microseconds(double seconds) {
    char text[40];
    std::snprintf(text, sizeof text, "%.3f", 1e6 * seconds);
    return text;
  }
  void begin(const char* phase, int thread, std::string_view name) {
    if (!out_.empty()) out_ += ",\n";
    out_ += cat("{\"ph\":\"", phase, "\",\"pid\":", rank_, ",\"tid\":", thread,
                ",\"name\":", json_text(name));
  }
  void end(const std::string& arguments) { out_ += cat(",\"args\":{", arguments, "}}"); }

  std::string& out_;
  int rank_;
};

std::string span_arguments(const TimelineSpan& span) {
  const std::string_view name = span.name;
  const bool pass = name != "wait" && name != "optimizer";
  std::string text = cat("\"step\":", span.step);
  if (span.number >= 0) text += cat(pass ? ",\"virtual_rank\":" : ",\"bucket\":", span.number);
  return text;
}

// The texts of all ranks, one after the other, so that rank 0 holds two of them at most.
void write_texts(Communicator& comm, const std::filesystem::path& file, const std::string& mine) {
  Stream s;
  auto size = static_cast<std::int64_t>(mine.size());
  const Tensor size_view{&size, {1}, DType::i64};
  if (comm.rank() > 0) {
    comm.wait(s, comm.send(s, "timeline size", size_view, 0));
    comm.wait(s, comm.send(s, "timeline", {const_cast<char*>(mine.data()), {size}, DType::u8}, 0));
    together(comm, [] {});
    return;
  }
  std::unique_ptr<FileWriter> writer;
  std::unique_ptr<Error> failed;  // the other ranks are heard to the end all the same
  const auto attempt = [&](const std::function<void()>& work) {
    if (failed) return;
    try {
      work();
    } catch (const Error& error) {
      failed = std::make_unique<Error>(error);
    }
  };
  attempt([&] {
    writer = std::make_unique<FileWriter>(file);
    writer->write("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    writer->write(mine);
  });
  std::string text;
  for (int rank = 1; rank < comm.world_size(); ++rank) {
    comm.wait(s, comm.recv(s, "timeline size", size_view, rank));
    text.resize(static_cast<std::size_t>(size));
    comm.wait(s, comm.recv(s, "timeline", {text.data(), {size}, DType::u8}, rank));
    attempt([&] {
      writer->write(",\n");
      writer->write(text);
    });
  }
  attempt([&] {
    writer->write("\n]}\n");
    writer->commit();
  });
  together(comm, [&] {
    if (failed) throw Error(*failed);
  });
}

}  // namespace

TimelineSteps parse_timeline_steps(const std::string& text) {
  TimelineSteps steps;
  const char* at = text.data();
  const char* const end = at + text.size();
  const bool well = read_number(at, end, steps.first) && at != end && *at++ == ':' &&
                    read_number(at, end, steps.last) && at == end && steps.first <= steps.last;
  if (!well) {
    fail_input("--timeline-steps", "\"", text,
               "\"; write the first and the last step to record, counted from 1, such as 1:100");
  }
  return steps;
}

TimelineSteps steps_to_record(TimelineSteps asked, std::int64_t first, std::int64_t last) {
  if (asked.first == 0) return {first, std::min(last, first + kDefaultSteps - 1)};
  const TimelineSteps steps{std::max(asked.first, first), std::min(asked.last, last)};
  if (steps.first > steps.last) {
    fail_input("--timeline-steps", asked.first, ":", asked.last, "; this run makes steps ", first,
               " to ", last);
  }
  return steps;
}

Timeline::Timeline(TimelineSteps steps, const TimelineRoom& room, Communicator& comm)
    : steps_(steps), comm_(comm), clock_(comm) {
  std::size_t bytes_per_step = room.calls * sizeof(FlightCall);
  for (const std::size_t spans : room.spans) bytes_per_step += spans * sizeof(TimelineSpan);
  const auto count =
      static_cast<std::size_t>(std::max<std::int64_t>(0, steps.last - steps.first + 1));
  const std::size_t most = kMostBytes / bytes_per_step;
  if (count > most) {
    fail_input("--timeline-steps", count, " steps; the memory set aside, ",
               human_bytes(static_cast<double>(kMostBytes)), " a rank, holds ", most,
               " steps of this job");
  }
  for (const std::size_t spans : room.spans) {
    lanes_.emplace_back().spans.resize(count * spans + kSpareSpans);
  }
  checkpoints_.spans.resize(kCheckpointSpans);
  calls_.resize(count * room.calls + kSpareCalls);
  fresh_.resize(kCallsAtATime);
}

void Timeline::begin_step(std::int64_t step) {
  if (step == steps_.first) take_calls(/*keep=*/false);
  step_ = step;
  recording_ = step >= steps_.first && step <= steps_.last;
}

void Timeline::end_step() {
  if (recording_) take_calls(/*keep=*/true);
}

// What the flight record has of calls that ended since the last time.
void Timeline::take_calls(bool keep) {
  for (;;) {
    const std::uint64_t before = calls_seen_;
    const std::size_t count = comm_.copy_flight(calls_seen_, fresh_);
    if (count == 0) return;
    if (!keep) continue;
    dropped_ += calls_seen_ - before - count;
    const std::size_t some = std::min(count, calls_.size() - calls_used_);
    std::copy_n(fresh_.begin(), some, calls_.begin() + static_cast<std::ptrdiff_t>(calls_used_));
    calls_used_ += some;
    dropped_ += count - some;
  }
}

void Timeline::checkpoint(bool begins, std::int64_t step) {
  const std::lock_guard lock(checkpoint_mutex_);
  if (begins) {
    checkpoint_began_ = now();
  } else if (step >= steps_.first && step <= steps_.last) {
    add_to(checkpoints_, {"write checkpoint", step, -1, checkpoint_began_, now()});
  }
}

void Timeline::append_calls(std::string& out, int thread) const {
  Events events(out, comm_.rank());
  for (std::size_t i = 0; i < calls_used_; ++i) {
    const FlightCall& call = calls_[i];
    const CallRecord& r = call.record;
    // Another core's counter may lag by a few ticks.
    const double queued = clock_.seconds(call.queued);
    const double started = std::max(queued, clock_.seconds(call.started));
    const double ended = std::max(started, clock_.seconds(call.ended));
    const std::string id = cat(comm_.rank(), ".", r.sequence), name = r.name.data();
    const std::string arguments =
        cat("\"call\":\"", name_of(r.kind), "\",\"number\":", r.sequence, ",\"step\":", call.step,
            ",\"dtype\":\"", name_of(r.dtype),
            "\",\"bytes\":", r.count * static_cast<std::int64_t>(size_of(r.dtype)));
    events.edge("b", thread, "queued", name, id, queued, arguments);
    events.edge("e", thread, "queued", name, id, started, "");
    events.span(thread, "collective", name, started, ended, arguments);
  }
}

// This rank's events, as they stand in the file.
std::string Timeline::text() {
  std::string out;
  Events events(out, comm_.rank());
  const double error = 1e6 * clock_.error();
  events.metadata(0, "process_name", cat("\"name\":", json_text(comm_.rank_name(comm_.rank()))));
  events.metadata(0, "process_sort_index", cat("\"sort_index\":", comm_.rank()));
  events.metadata(0, "process_labels",
                  cat("\"labels\":\"clock within ", error, " us\",\"clock_error_us\":", error,
                      ",\"dropped\":", dropped_));
  int thread = 0;
  const auto name_thread = [&](const std::string& name) {
    events.metadata(++thread, "thread_name", cat("\"name\":\"", name, "\""));
    events.metadata(thread, "thread_sort_index", cat("\"sort_index\":", thread));
  };
  const auto add = [&](const Track& track, const char* category) {
    for (std::size_t i = 0; i < track.used; ++i) {
      const TimelineSpan& span = track.spans[i];
      events.span(thread, category, span.name, clock_.seconds(span.begin), clock_.seconds(span.end),
                  span_arguments(span));
    }
  };
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
    name_thread(cat("lane ", lane));
    add(lanes_[lane], "compute");
  }
  name_thread("collectives");
  append_calls(out, thread);
  name_thread("checkpoint");
  add(checkpoints_, "checkpoint");
  return out;
}

double Timeline::write(const std::filesystem::path& file) {
  take_calls(recording_);
  recording_ = false;
  clock_.end();
  const std::lock_guard lock(checkpoint_mutex_);
  for (const Track& lane : lanes_) dropped_ += lane.dropped;
  dropped_ += checkpoints_.dropped;
  write_texts(comm_, file, text());
  double error = clock_.error();
  Stream s;
  const Tensor view{&error, {1}, DType::f64};
  comm_.wait(s, comm_.all_reduce(s, "clock error", view, view, ReduceOp::max));
  return error;
}

}  // namespace peal
