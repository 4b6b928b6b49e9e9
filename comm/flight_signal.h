// SIGUSR2: every flight recorder of this process writes its file, and the run goes on.
#pragma once

namespace peal {

class FlightRecorder;

// Whether `recorder` writes when the signal comes; off before it is destroyed. The first one on
// takes SIGUSR2, if nobody else has a handler for it, and starts a thread that sleeps until the
// signal comes; both stay until the process ends.
void write_on_signal(FlightRecorder* recorder, bool on);

}  // namespace peal
