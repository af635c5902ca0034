// Plain C++: whatever the compiler makes of it.
#include "kernels.h"

namespace skp {
namespace {

struct V {
  static constexpr int N = 8;
  static constexpr int kPixelGroup = 4, kVectors = 2;
  float v[N];
  template <class T>
  static V load(const T *p) {
    V r;
    for (int i = 0; i < N; i++) r.v[i] = widen(p[i]);
    return r;
  }
  template <class T>
  void store(T *p) const {
    for (int i = 0; i < N; i++) narrow(v[i], p + i);
  }
  void stream(float *p) const { store(p); }
  static void end_stream() {}
  static V set(float x) {
    V r;
    for (int i = 0; i < N; i++) r.v[i] = x;
    return r;
  }
  static V zero() { return set(0); }
#define SKP_EACH(name, expression)                     \
  static V name(V a, V b) {                            \
    V r;                                               \
    for (int i = 0; i < N; i++) r.v[i] = (expression); \
    return r;                                          \
  }
  SKP_EACH(add, a.v[i] + b.v[i])
  SKP_EACH(sub, a.v[i] - b.v[i])
  SKP_EACH(mul, a.v[i] * b.v[i])
  SKP_EACH(max, a.v[i] > b.v[i] ? a.v[i] : b.v[i])
  SKP_EACH(min, a.v[i] < b.v[i] ? a.v[i] : b.v[i])
#undef SKP_EACH
  static V fma(V a, V b, V c) {
    for (int i = 0; i < N; i++) c.v[i] += a.v[i] * b.v[i];
    return c;
  }
  static V abs(V a) {
    for (int i = 0; i < N; i++) a.v[i] = __builtin_fabsf(a.v[i]);
    return a;
  }
  static bool differ(V a, V b) {
    bool d = false;
    for (int i = 0; i < N; i++) d |= a.v[i] != b.v[i];
    return d;
  }
  float total() const {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
  }
  float largest() const {
    float m = v[0];
    for (int i = 1; i < N; i++) m = v[i] > m ? v[i] : m;
    return m;
  }
};

}  // namespace
}  // namespace skp

#include "kernels_impl.h"

const skp::Kernels *skp::kernels_portable() { return &kTable; }
