// Messages that a host program sends around its ranks, one after another, while it makes calls of
// Peal: never waited for, so that a lost rank holds up none of the others there. They would be
// mistaken for Peal's, or Peal's for them, if both used one communicator.
#pragma once

#include <mpi.h>

#include <array>
#include <cstdint>

#include "core/base/error.h"

namespace peal {

class OwnTraffic {
 public:
  explicit OwnTraffic(MPI_Comm ranks) : ranks_(ranks) {
    MPI_Comm_size(ranks_, &n_);
    MPI_Comm_rank(ranks_, &me_);
    MPI_Comm_dup(ranks_, &ends_);
    listen();
  }

  // Looks at what is under way; from the thread that called MPI_Init.
  void go_on() {
    int ended = 0;
    MPI_Test(&receive_, &ended, MPI_STATUS_IGNORE);
    if (ended != 0) take();
    MPI_Test(&send_, &ended, MPI_STATUS_IGNORE);
    if (ended == 0) return;
    out_.fill(number(me_, sent_++));
    MPI_Isend(out_.data(), kNumbers, MPI_INT64_T, (me_ + 1) % n_, static_cast<int>(sent_ % 3),
              ranks_, &send_);
  }

  // Collective: every message that was sent has come, once and in order.
  void finish() {
    std::int64_t due = 0;
    MPI_Sendrecv(&sent_, 1, MPI_INT64_T, (me_ + 1) % n_, kEndTag, &due, 1, MPI_INT64_T, before(),
                 kEndTag, ends_, MPI_STATUS_IGNORE);
    while (received_ < due) {
      MPI_Wait(&receive_, MPI_STATUS_IGNORE);
      take();
    }
    MPI_Wait(&send_, MPI_STATUS_IGNORE);
    MPI_Cancel(&receive_);
    MPI_Request_free(&receive_);
  }

 private:
  static constexpr int kNumbers = 64, kEndTag = 7;

  static std::int64_t number(int rank, std::int64_t k) { return 1'000'000 * rank + k; }
  int before() const { return (me_ + n_ - 1) % n_; }
  void listen() {
    in_.fill(-1);
    MPI_Irecv(in_.data(), kNumbers, MPI_INT64_T, MPI_ANY_SOURCE, MPI_ANY_TAG, ranks_, &receive_);
  }
  void take() {
    const std::int64_t due = number(before(), received_++);
    for (const std::int64_t value : in_) {
      if (value != due) fail_internal("host program", cat("has received ", value, ", not ", due));
    }
    listen();
  }

  MPI_Comm ranks_, ends_ = MPI_COMM_NULL;  // ends_: what each has sent in all
  int n_ = 1, me_ = 0;
  std::int64_t sent_ = 0, received_ = 0;
  MPI_Request receive_ = MPI_REQUEST_NULL, send_ = MPI_REQUEST_NULL;
  std::array<std::int64_t, kNumbers> in_{}, out_{};
};

}  // namespace peal
