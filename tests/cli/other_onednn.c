/* Loaded before oneDNN, this answers for it: a rank whose oneDNN is of another version. */
#include <oneapi/dnnl/dnnl.h>

const dnnl_version_t* dnnl_version(void) {
  static const dnnl_version_t version = {.major = 9, .minor = 8, .patch = 7, .hash = "another"};
  return &version;
}
