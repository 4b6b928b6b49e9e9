// The hosts of an elastic run: those that are named, those that answer, and those that are left
// out.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launcher/host_link.h"
#include "launcher/host_source.h"
#include "launcher/restart_policy.h"

namespace peal {

class HostPool {
 public:
  using Clock = std::chrono::steady_clock;
  using Say = std::function<void(const std::string&)>;

  struct Options {
    std::vector<HostSlots> hosts;        // at first
    std::unique_ptr<HostSource> source;  // where they change; null: nowhere
    std::string token;
    double deadline = 5;   // seconds after which a host that does not answer is out of reach
    double forgive = 600;  // seconds after which an earlier fault of a host does not count
  };
  HostPool(Options options, Say say);

  void tick();
  // A host was lost, or one of its ranks ended; after the second time it is left out.
  void fault(const std::string& host, const std::string& why);
  void leave_out(const std::string& host, const std::string& why);
  std::vector<std::string> left_out() const { return faults_.left_out(); }

  // Hosts that answer, in the order in which they are named.
  std::vector<HostSlots> available() const;
  bool is_named(const std::string& host) const;
  bool any_connecting() const;  // for the first time
  // Null where it does not answer; why is in why_lost().
  HostLink* link(const std::string& host);
  std::string why_lost(const std::string& host) const;

  // Says `line` to all that answer and takes the answers that begin with `word`, by host; a host
  // that has not answered in `seconds` is lost.
  std::vector<std::pair<std::string, std::string>> ask(const std::string& line,
                                                       const std::string& word, double seconds);
  void set_run(const std::string& number);  // said to all, now and later

 private:
  struct Member {
    HostSlots host;
    bool named = true;  // false: not any more
    bool tried = false;
    std::unique_ptr<HostLink> link;
    std::string why;  // it is lost
    Clock::time_point retry{};
    bool was_up = false;
  };
  void read_hosts();
  void tend(Member& member);
  void lose(Member& member, const std::string& why);
  Member* find(const std::string& host);
  const Member* find(const std::string& host) const;

  Options options_;
  Say say_;
  std::vector<Member> members_;
  HostFaults faults_;
  std::string run_;  // its number
  Clock::time_point begin_ = Clock::now(), read_{};
};

}  // namespace peal
