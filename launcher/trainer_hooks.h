// What a GPU does, on the CPU too: for tests, which find the same bits with and without.
#pragma once

namespace peal {

struct TrainerHooks {
  bool record = false;  // replay recorded passes, as train.cuda_graphs does
  bool late = false;    // read what a step gave while the next one runs
};

}  // namespace peal
