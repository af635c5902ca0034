// AVX-512 with its bfloat16 products: two channels of 16 outputs in one instruction.
#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512BF16__)
#include "vector_avx512.h"

#include "kernels_impl.h"

namespace skp {
namespace {

// 8 pixels times NV vectors.
template <int NV>
inline void micro_pairs(const bf16 *const *px, const int *taps, int ntaps, int pairs, const bf16 *w,
                        int width, float *out, const char *ahead, int lines) {
  constexpr int PX = V::kPixelGroup;
  __m512 acc[PX][NV];
  for (int i = 0; i < PX; i++)
    for (int v = 0; v < NV; v++) acc[i][v] = _mm512_setzero_ps();
  auto step = [&](const bf16 *const *a, int k) {
    __m512bh b[NV];
    for (int v = 0; v < NV; v++) b[v] = (__m512bh)_mm512_loadu_si512(w + v * 2 * V::N);
    w += 2 * width;
#pragma GCC unroll 8
    for (int i = 0; i < PX; i++) {
      int pair;
      __builtin_memcpy(&pair, a[i] + 2 * k, sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], x, b[v]);
    }
  };
  for (int t = 0; t < ntaps; t++) {
    const bf16 *a[PX];
    for (int i = 0; i < PX; i++) a[i] = px[i] + taps[t];
    int k = 0;
    for (; k + 4 <= pairs; k += 4) {
      for (int l = 0; l < lines; l++) __builtin_prefetch(ahead + l * 64, 0, 2);
      ahead += lines * 64;
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) step(a, k + u);
    }
    for (; k < pairs; k++) step(a, k);
  }
  for (int i = 0; i < PX; i++)
    for (int v = 0; v < NV; v++) _mm512_storeu_ps(out + i * kChunk + v * V::N, acc[i][v]);
}

void gemm_pairs(const void *const *px, int n, const int *taps, int ntaps, int pairs, const bf16 *w,
                int width, float *acc, const char *ahead, int lines) {
  constexpr int P = V::kPixelGroup;
  const int64_t each = (int64_t)ntaps * (pairs / 4) * 64 * lines;
  for (int g = 0; g < n; g += P) {
    const bf16 *group[P];
    for (int i = 0; i < P; i++) group[i] = (const bf16 *)px[g + i < n ? g + i : n - 1];
    float *out = acc + (int64_t)g * kChunk;
    if (width > V::N)
      micro_pairs<2>(group, taps, ntaps, pairs, w, width, out, ahead, lines);
    else
      micro_pairs<1>(group, taps, ntaps, pairs, w, width, out, ahead, lines);
    ahead += each;
  }
}

const Kernels kWithPairs = [] {
  Kernels k = kTable;
  k.gemm_pairs = gemm_pairs;
  return k;
}();

}  // namespace
}  // namespace skp

const skp::Kernels *skp::kernels_avx512bf16() { return &kWithPairs; }
#else
const skp::Kernels *skp::kernels_avx512bf16() { return nullptr; }
#endif
