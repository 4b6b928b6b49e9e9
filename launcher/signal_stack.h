// Signals that leave the stack alone.
#pragma once

namespace peal {

// Handlers that are installed with SA_ONSTACK have a stack of their own from now on, on this
// thread: the main one, to which signals to the process come. oneDNN 2.6's matrix products for AVX2
// do not survive a handler on their stack: memory is then written elsewhere than it should be.
void use_signal_stack();

}  // namespace peal
