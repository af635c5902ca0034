// AVX-512: 16 channels in a register, 8 pixels by 32 channels at a time.
#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "vector_avx512.h"

#include "kernels_impl.h"

const skp::Kernels *skp::kernels_avx512() { return &kTable; }
#else
const skp::Kernels *skp::kernels_avx512() { return nullptr; }
#endif
