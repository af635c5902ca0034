// The kernels over a vector type V, included once for each instruction set with V defined.
// Everything is in an unnamed namespace: code of one instruction set must not leak into another.
#include "winograd_impl.h"

namespace skp {
namespace {

inline float activate1(float v, const Activation &f) {
  switch (f.kind) {
    case SKP_RELU: return v > 0 ? v : (v != v ? v : 0);
    case SKP_CLAMP: return v < f.a ? f.a : (v > f.b ? f.b : v);
    case SKP_LEAKY: return v >= 0 ? v : v * f.a;
    case SKP_SIGMOID: return 1 / (1 + __builtin_expf(-v));
    case SKP_SILU: return v / (1 + __builtin_expf(-v));
    case SKP_HARD_SIGMOID: {
      float u = (v + 3) * (1.0f / 6);
      return u < 0 ? 0 : (u > 1 ? 1 : u);
    }
    case SKP_HARD_SWISH: {
      float u = v + 3;
      u = u < 0 ? 0 : (u > 6 ? 6 : u);
      return v * u * (1.0f / 6);
    }
    case SKP_TANH: return __builtin_tanhf(v);
  }
  return v;
}

inline V activate(V v, const Activation &f) {
  if (f.kind == SKP_IDENTITY) return v;
  if (f.kind == SKP_RELU) return V::max(v, V::zero());
  if (f.kind == SKP_CLAMP) return V::min(V::max(v, V::set(f.a)), V::set(f.b));
  float buffer[V::N];
  v.store(buffer);
  for (int i = 0; i < V::N; i++) buffer[i] = activate1(buffer[i], f);
  return V::load(buffer);
}

// PX pixels times NV vectors, channels and taps summed.
template <int PX, int NV>
inline void micro(const float *const *px, const int *taps, int ntaps, int channels, const float *w,
                  int width, float *out, const char *ahead, int lines) {
  V acc[PX][NV];
  for (int i = 0; i < PX; i++)
    for (int v = 0; v < NV; v++) acc[i][v] = V::zero();
  for (int t = 0; t < ntaps; t++) {
    const float *a[PX];
    for (int i = 0; i < PX; i++) a[i] = px[i] + taps[t];
    int k = 0;
    for (; k + 4 <= channels; k += 4) {
      for (int l = 0; l < lines; l++) __builtin_prefetch(ahead + l * 64, 0, 2);
      ahead += lines * 64;
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        V b[NV];
        for (int v = 0; v < NV; v++) b[v] = V::load(w + v * V::N);
        w += width;
#pragma GCC unroll 16
        for (int i = 0; i < PX; i++) {
          V x = V::set(a[i][k + u]);
          for (int v = 0; v < NV; v++) acc[i][v] = V::fma(x, b[v], acc[i][v]);
        }
      }
    }
    for (; k < channels; k++) {
      V b[NV];
      for (int v = 0; v < NV; v++) b[v] = V::load(w + v * V::N);
      w += width;
      for (int i = 0; i < PX; i++) {
        V x = V::set(a[i][k]);
        for (int v = 0; v < NV; v++) acc[i][v] = V::fma(x, b[v], acc[i][v]);
      }
    }
  }
  for (int i = 0; i < PX; i++)
    for (int v = 0; v < NV; v++) acc[i][v].store(out + i * kChunk + v * V::N);
}

void gemm(const void *const *px, int n, const int *taps, int ntaps, int channels, const float *w,
          int width, float *acc, const char *ahead, int lines) {
  constexpr int P = V::kPixelGroup, NV = V::kVectors, W = NV * V::N;
  const int64_t step = (int64_t)ntaps * (channels / 4) * 64 * lines;
  for (int g = 0; g < n; g += P) {
    const float *group[P];
    for (int i = 0; i < P; i++) group[i] = (const float *)px[g + i < n ? g + i : n - 1];
    float *out = acc + (int64_t)g * kChunk;
    const auto run = 2 * (n - g) > P ? &micro<P, NV> : &micro<P / 2, NV>;
    int c = 0;
    for (; c + W <= width; c += W)
      run(group, taps, ntaps, channels, w + c, width, out + c, ahead, c ? 0 : lines);
    if (c < width)
      micro<P, NV / 2>(group, taps, ntaps, channels, w + c, width, out + c, ahead, c ? 0 : lines);
    ahead += step;
  }
}

// One input channel for each output channel: w (ntaps, width).
void depthwise(const void *const *px, int n, const int *taps, int ntaps, const float *w, int width,
               float *acc) {
  for (int i = 0; i < n; i++)
    for (int c = 0; c < width; c += V::N) {
      V sum = V::zero();
      for (int t = 0; t < ntaps; t++)
        sum = V::fma(V::load((const float *)px[i] + taps[t] + c), V::load(w + t * width + c), sum);
      sum.store(acc + (int64_t)i * kChunk + c);
    }
}

template <class T, class Z>
void epilogue_of(const Epilogue &e) {
  T *y = (T *)e.y, *before = (T *)e.before;
  Z *z = (Z *)e.z;
  for (int i = 0; i < e.n; i++) {
    const int64_t at = e.offset[i];
    if (at < 0) continue;
    const float *acc = e.acc + (int64_t)i * kChunk;
    const bool update = e.add_z && e.add_z[i];
    bool changed = false;
    V moved = V::zero();
    for (int c = 0; c < e.width; c += V::N) {
      const V old = V::load(y + at + c);  // first of all: z may be y
      V v = V::load(acc + c);
      v = V::add(v, update ? V::load(z + at + c) : V::load(e.bias + c));
      if (z) {
        v.store(z + at + c);
        if (sizeof(Z) < 4) v = V::load(z + at + c);  // as it will be read again
      }
      if (e.scale) v = V::fma(v, V::load(e.scale + c), V::load(e.shift + c));
      for (int s = 0; s < e.nskip; s++) v = V::add(v, V::load((const T *)e.skip[s] + at + c));
      v = activate(v, e.act);
      if (before) old.store(before + at + c);
      v.store(y + at + c);
      if (sizeof(T) < 4) v = V::load(y + at + c);
      changed |= V::differ(v, old);
      if (e.moved) moved = V::add(moved, V::abs(V::sub(v, old)));
    }
    if (changed) e.changed[i] = 1;
    if (e.moved) e.moved[i] += moved.total();
  }
}

template <class T>
void epilogue(const Epilogue &e) {
  if (e.z_float)
    epilogue_of<T, float>(e);
  else
    epilogue_of<T, T>(e);
}

template <class T>
inline float power1(const T *x, const T *h, int channels, int p) {
  V sum = V::zero();
  int c = 0;
  float tail = 0;
  for (; c + V::N <= channels; c += V::N) {
    V d = V::load(x + c);
    if (h) d = V::sub(d, V::load(h + c));
    if (p == 1)
      sum = V::add(sum, V::abs(d));
    else if (p == 2)
      sum = V::fma(d, d, sum);
    else
      sum = V::max(sum, V::abs(d));
  }
  float total = p ? sum.total() : sum.largest();
  for (; c < channels; c++) {
    float d = widen(x[c]) - (h ? widen(h[c]) : 0);
    if (p == 1)
      tail += __builtin_fabsf(d);
    else if (p == 2)
      tail += d * d;
    else if (__builtin_fabsf(d) > tail)
      tail = __builtin_fabsf(d);
  }
  return p ? total + tail : (total > tail ? total : tail);
}

template <class T>
void power(const void *x, const void *h, const uint8_t *dirty, int n, int pitch, int channels, int p,
           float *out) {
  for (int i = 0; i < n; i++) {
    if (dirty && !dirty[i]) continue;
    const int64_t at = (int64_t)i * pitch;
    out[i] = power1((const T *)x + at, h ? (const T *)h + at : nullptr, channels, p);
  }
}

template <class T>
void delta(const void *x, const void *before, const uint8_t *dirty, int n, int pitch, float *d) {
  for (int i = 0; i < n; i++) {
    const int64_t at = (int64_t)i * pitch;
    const T *now = (const T *)x + at, *then = before ? (const T *)before + at : nullptr;
    if (before && !dirty[i])
      __builtin_memset(d + at, 0, sizeof(float) * pitch);
    else
      for (int c = 0; c < pitch; c++) d[at + c] = widen(now[c]) - (then ? widen(then[c]) : 0);
  }
}

template <class T>
float dot(const void *x, const void *before, const float *w, int channels, int rectify) {
  const T *now = (const T *)x, *then = (const T *)before;
  V sum = V::zero();
  int c = 0;
  float tail = 0;
  for (; c + V::N <= channels; c += V::N) {
    V d = V::load(now + c);
    if (then) d = V::sub(d, V::load(then + c));
    if (rectify) d = V::abs(d);
    sum = V::fma(d, V::load(w + c), sum);
  }
  for (; c < channels; c++) {
    float d = widen(now[c]) - (then ? widen(then[c]) : 0);
    tail += (rectify ? __builtin_fabsf(d) : d) * w[c];
  }
  return sum.total() + tail;
}

// Applies `f(channel vector)` to a pixel, whole vectors first, single channels for what is left.
template <class T, class Vector, class Single>
inline bool each_channel(const Pixel &p, Vector vector, Single single) {
  T *y = (T *)p.y, *before = (T *)p.before;
  bool changed = false;
  int c = 0;
  V moved = V::zero();
  float rest = 0;
  for (; c + V::N <= p.channels; c += V::N) {
    V v = activate(vector(c), p.act);
    const V old = V::load(y + c);
    if (before) old.store(before + c);
    v.store(y + c);
    if (sizeof(T) < 4) v = V::load(y + c);
    changed |= V::differ(v, old);
    if (p.moved) moved = V::add(moved, V::abs(V::sub(v, old)));
  }
  for (; c < p.channels; c++) {
    const T old = y[c];
    if (before) before[c] = old;
    narrow(activate1(single(c), p.act), y + c);
    changed |= widen(y[c]) != widen(old);
    rest += __builtin_fabsf(widen(y[c]) - widen(old));
  }
  if (p.moved) *p.moved = moved.total() + rest;
  return changed;
}

template <class T>
bool sum(const Pixel &p) {
  const T *const *src = (const T *const *)p.src;
  return each_channel<T>(
      p,
      [&](int c) {
        V v = V::zero();
        if (p.coef)
          for (int s = 0; s < p.nsrc; s++) v = V::fma(V::set(p.coef[s]), V::load(src[s] + c), v);
        else
          for (int s = 0; s < p.nsrc; s++) v = V::add(v, V::load(src[s] + c));
        if (p.scale) v = V::fma(v, V::load(p.scale + c), V::load(p.shift + c));
        return v;
      },
      [&](int c) {
        float v = 0;
        for (int s = 0; s < p.nsrc; s++) v += (p.coef ? p.coef[s] : 1) * widen(src[s][c]);
        if (p.scale) v = v * p.scale[c] + p.shift[c];
        return v;
      });
}

template <class T>
bool mul(const Pixel &p) {
  const T *const *src = (const T *const *)p.src;
  return each_channel<T>(
      p,
      [&](int c) {
        V v = V::load(src[0] + c);
        for (int s = 1; s < p.nsrc; s++) v = V::mul(v, V::load(src[s] + c));
        return v;
      },
      [&](int c) {
        float v = widen(src[0][c]);
        for (int s = 1; s < p.nsrc; s++) v *= widen(src[s][c]);
        return v;
      });
}

template <class T>
bool maximum(const Pixel &p) {
  const T *const *src = (const T *const *)p.src;
  return each_channel<T>(
      p,
      [&](int c) {
        V v = V::load(src[0] + c);
        for (int s = 1; s < p.nsrc; s++) v = V::max(v, V::load(src[s] + c));
        return v;
      },
      [&](int c) {
        float v = widen(src[0][c]);
        for (int s = 1; s < p.nsrc; s++) v = widen(src[s][c]) > v ? widen(src[s][c]) : v;
        return v;
      });
}

void stream(void *to, const void *from, int rows, int64_t bytes, int64_t step) {
  const int64_t vectors = (uintptr_t)to % 64 || bytes % 64 ? 0 : bytes / (int64_t)sizeof(V);
  for (int r = 0; r < rows; r++) {
    float *out = (float *)((char *)to + r * bytes);
    const float *in = (const float *)((const char *)from + r * step);
    if (!vectors) __builtin_memcpy(out, in, bytes);
    for (int64_t i = 0; i < vectors; i++) V::load(in + i * V::N).stream(out + i * V::N);
  }
  V::end_stream();
}

template <class T>
constexpr TypedKernels typed() {
  return {epilogue<T>, power<T>, delta<T>, dot<T>, sum<T>, mul<T>, maximum<T>};
}

const Kernels kTable = {V::kPixelGroup,
                        gemm,
                        depthwise,
                        {{{winograd_input<2, float>, winograd_input<2, bf16>}, winograd_output<2>},
                         {{winograd_input<4, float>, winograd_input<4, bf16>}, winograd_output<4>}},
                        stream,
                        {typed<float>(), typed<bf16>()},
                        nullptr};

}  // namespace
}  // namespace skp
