// Takes the place of the engine's own answer where tiles are emulated: they and portable code.
#include "skippose_native.h"

int skp_has_isa(int isa) {
  __builtin_cpu_init();  // what is not tiles of it runs as on any processor that has them
  return isa == SKP_PORTABLE || (isa == SKP_AMX && __builtin_cpu_supports("avx512f") &&
                                 __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512vl") &&
                                 __builtin_cpu_supports("avx512dq") &&
                                 __builtin_cpu_supports("avx512bf16"));
}
