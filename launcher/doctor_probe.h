// `peal doctor --probe`: what doctor starts on every host.
#pragma once

namespace peal {

// Answers requests (probe_protocol.h) until its input ends; ends this process after ten minutes in
// any case.
void run_probe();

}  // namespace peal
