// AVX2 and FMA: 8 channels in a register, 6 pixels by 16 channels at a time.
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace skp {
namespace {

struct V {
  static constexpr int N = 8;
  static constexpr int kPixelGroup = 6, kVectors = 2;
  __m256 v;
  static V load(const float *p) { return {_mm256_loadu_ps(p)}; }
  static V load(const bf16 *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  void store(float *p) const { _mm256_storeu_ps(p, v); }
  void stream(float *p) const { _mm256_stream_ps(p, v); }
  static void end_stream() { _mm_sfence(); }  // before another core may read
  void store(bf16 *p) const {
    float f[N];
    store(f);
    for (int i = 0; i < N; i++) narrow(f[i], p + i);
  }
  static V set(float x) { return {_mm256_set1_ps(x)}; }
  static V zero() { return {_mm256_setzero_ps()}; }
  static V add(V a, V b) { return {_mm256_add_ps(a.v, b.v)}; }
  static V sub(V a, V b) { return {_mm256_sub_ps(a.v, b.v)}; }
  static V mul(V a, V b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static V max(V a, V b) { return {_mm256_max_ps(a.v, b.v)}; }
  static V min(V a, V b) { return {_mm256_min_ps(a.v, b.v)}; }
  static V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static V abs(V a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
  static bool differ(V a, V b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)) != 0;
  }
  float total() const {
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
  }
  float largest() const {
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
  }
};

}  // namespace
}  // namespace skp

#include "kernels_impl.h"

const skp::Kernels *skp::kernels_avx2() { return &kTable; }
#else
const skp::Kernels *skp::kernels_avx2() { return nullptr; }
#endif
