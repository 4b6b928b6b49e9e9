#include "core/config/job.h"
