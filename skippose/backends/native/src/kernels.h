// Inner loops, one table for each instruction set.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "skippose_native.h"

namespace skp {

typedef uint16_t bf16;

static inline float widen(float v) { return v; }
static inline float widen(bf16 v) {
  uint32_t bits = (uint32_t)v << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
static inline void narrow(float v, float *out) { *out = v; }
static inline void narrow(float v, bf16 *out) {  // to nearest even; a NaN stays one
  uint32_t bits;
  __builtin_memcpy(&bits, &v, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    *out = (bf16)((bits >> 16) | 0x40);
  else
    *out = (bf16)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

constexpr int kChunk = 32;     // output channels per GEMM
constexpr int kPixels = 64;    // output pixels per GEMM, at least
constexpr int kLane = 16;      // channels are padded to this

struct Activation {
  int kind;
  float a, b;
};

// Accumulators (n pixels, kChunk) to outputs. Offsets are elements from the map's begin to the
// pixel's first channel (negative: no such output); z, y, skip and before share them.
struct Epilogue {
  const float *acc;
  const int64_t *offset;
  int n, width;                 // width: a multiple of kLane
  const float *bias;            // of this chunk
  void *z;                      // or null
  bool z_float;                 // z is float32 whatever the maps are
  const uint8_t *add_z;         // (n): 1 where the accumulators are an update of z; or null
  void *y, *before;             // before: the last frame's value is kept there; or null
  const float *scale, *shift;   // of this chunk, or null
  const void *skip[SKP_MOST_SKIPS];
  int nskip;
  Activation act;
  uint8_t *changed;             // (n): set to 1 where a value differs from the one before
  float *moved;                 // (n): sums of |new - old| are added; or null
};

// A weighted sum of pixels and the like, for one output pixel.
struct Pixel {
  void *y, *before;
  const void *const *src;
  const float *coef;            // or null: all one
  const float *scale, *shift;   // per channel, of a sum; or null
  int nsrc, channels;
  Activation act;
  float *moved;                 // the sum of |new - old|; or null
};

struct TypedKernels {
  void (*epilogue)(const Epilogue &);
  // out[i] = power over channels of x[i] - h[i], pixels where dirty (null: all); h null: of x.
  void (*power)(const void *x, const void *h, const uint8_t *dirty, int n, int pitch, int channels,
                int p, float *out);
  // d[i] = x[i] - before[i] where dirty, else 0, as float32; before null: x itself, everywhere.
  void (*delta)(const void *x, const void *before, const uint8_t *dirty, int n, int pitch,
                float *d);
  // Sum over channels of w * f(x - before); f is |.| if rectify, before null: of x.
  float (*dot)(const void *x, const void *before, const float *w, int channels, int rectify);
  bool (*sum)(const Pixel &);   // all of these return whether the output pixel changed
  bool (*mul)(const Pixel &);
  bool (*max)(const Pixel &);
};

struct Kernels {
  int group;                    // pixels that a GEMM takes at a time
  // acc (n rounded up to a group, kChunk) = sum over taps and channels; px: n pixels' receptive
  // fields, float32; ahead: weights of what comes next, of which `lines` cache lines are fetched in
  // every 4 steps.
  void (*gemm)(const void *const *px, int n, const int *taps, int ntaps, int channels,
               const float *w, int width, float *acc, const char *ahead, int lines);
  void (*depthwise)(const void *const *px, int n, const int *taps, int ntaps, const float *w,
                    int width, float *acc);
  // A patch (T rows + 2, patch_w, pitch) to the transforms of its tiles: out ((T + 2)^2 planes of
  // which each has a row of `pitch` for every tile), and back: products (as many planes, rows of
  // kChunk) to acc (T rows, T columns, kChunk). See winograd_impl.h.
  struct Winograd {
    void (*input[2])(const void *patch, int patch_w, int pitch, int rows, int columns,
                     int64_t plane, float *out);  // of float32, of bfloat16
    void (*output)(const float *products, int64_t plane, int rows, int columns, int width,
                   float *acc);
  } winograd[2];                // T = 2, T = 4
  // Copies rows, `step` bytes apart, to where nobody reads before long: past the caches, if `to`
  // and `bytes` are multiples of 64.
  void (*stream)(void *to, const void *from, int rows, int64_t bytes, int64_t step);
  TypedKernels of[2];           // float32, bfloat16
  // gemm on pairs of channels, bfloat16; w (taps, pairs, width, 2). Null where there is no
  // instruction for it.
  void (*gemm_pairs)(const void *const *px, int n, const int *taps, int ntaps, int pairs,
                     const bf16 *w, int width, float *acc, const char *ahead, int lines);
};

const Kernels *kernels_portable();
const Kernels *kernels_avx2();      // null where this build lacks it
const Kernels *kernels_avx512();
const Kernels *kernels_avx512bf16();

// bfloat16 GEMM on tiles: acc (n, kChunk) = a (taps of n rows) * w. See kernels_amx.cpp.
struct TileGemm {
  const bf16 *const *taps;      // (ntaps): first row of each tap; rows are `pitch` elements apart
  int ntaps, n, k32, pitch;     // n rounded up to 16 rows must be readable
  const bf16 *w;                // (ntaps, k32, 2, 16, 16, 2)
  float *acc;                   // (n rounded up to 32, kChunk)
  const char *ahead;
  int lines;
};
bool amx_compiled();
bool amx_permitted();               // asks the operating system, once
void amx_begin();                   // on each thread, before tile_gemm
void amx_end();
void tile_gemm(const TileGemm &);

}  // namespace skp
