// What `peal launch --elastic` has on every host while it runs: it says that the host lives and
// when one of its ranks has gone, ends ranks, and gives memory back. It and the supervisor talk in
// lines:
//
//   supervisor                        agent
//                                     ready
//   .  (four times a second)          .  (four times a second)
//   run NUMBER   whose state lies     lost CODE    a rank has come to this exit code, not 0
//                in memory            lost         a rank has ended without a word
//   end PREFIX   kill these ranks     ended LEFT
//   newest                            newest STEP  in memory; -1: none
//   save FOLDER  write that state     saved STEP, or failed WHY
//                as a checkpoint
//   forget       free the memory      forgotten
#pragma once

#include <string>
#include <vector>

namespace peal {

// Until standard input ends. Ranks that are there then get 20 s to end by themselves, and are
// ended; the memory is freed. `host`: as the supervisor calls it; an agent of the same from before,
// which was out of reach, is ended, so that it does nothing to the ranks of today.
void serve_as_host_agent(const std::string& token, const std::string& host);

// How it is started: the arguments of this program.
std::vector<std::string> agent_words(const std::string& token, const std::string& host);

}  // namespace peal
