// The line from a rank to the agent on its host (host_agent.h): a local socket that every rank
// holds open while it lives, so that the agent hears at once how it ended, and also of one that
// ended before anybody had looked.
#pragma once

#include <poll.h>

#include <string>
#include <vector>

namespace peal {

// The rank's side. Where no supervisor has started this process, or no agent is there, it does
// nothing.
class RankLine {
 public:
  RankLine();
  RankLine(const RankLine&) = delete;

  // The exit code that this rank has come to, said before the process ends: 0 is no failure.
  void say_end(int code) const;

 private:
  int socket_ = -1;  // closed by the end of the process alone: that is its message
};

// The agent's side.
class RankLines {
 public:
  static constexpr int kNoWord = -1;  // it was killed, or ended without its own doing

  // Where another agent of this host has this token (it is named twice), the ranks are that one's.
  explicit RankLines(const std::string& token);
  ~RankLines();
  RankLines(const RankLines&) = delete;

  void add_files(std::vector<pollfd>& files) const;  // to wait on
  // How ranks have ended since: exit codes other than 0, and kNoWord; each rank once. Never waits.
  std::vector<int> take_ends();
  void forget_ranks();  // those of today say no more

 private:
  void accept_ranks();

  int listening_ = -1;
  std::vector<int> ranks_;
};

}  // namespace peal
