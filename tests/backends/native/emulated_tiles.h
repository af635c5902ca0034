// AMX's tile instructions in plain C++, for processors that lack them: put before kernels_amx.cpp.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace tiles {

constexpr int kRows = 16, kBytes = 64;
inline thread_local unsigned char tile[8][kRows][kBytes];
inline thread_local bool configured = false;

inline void configure(const void *config) {
  const unsigned char *c = (const unsigned char *)config;
  // 16 rows of 64 bytes in every tile is all that this can do.
  configured = c[0] == 1;
  for (int t = 0; t < 8; t++) {
    uint16_t bytes;
    memcpy(&bytes, c + 16 + 2 * t, 2);
    configured = configured && bytes == kBytes && c[48 + t] == kRows;
  }
}

inline void require_configured() {
  if (!configured) __builtin_trap();  // as the processor would
}

inline void zero(int t) {
  require_configured();
  memset(tile[t], 0, sizeof tile[t]);
}

inline void load(int t, const void *base, int64_t stride) {
  require_configured();
  for (int r = 0; r < kRows; r++) memcpy(tile[t][r], (const char *)base + r * stride, kBytes);
}

inline void store(int t, void *base, int64_t stride) {
  require_configured();
  for (int r = 0; r < kRows; r++) memcpy((char *)base + r * stride, tile[t][r], kBytes);
}

inline float half(const unsigned char *at) {  // bfloat16
  uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 24;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// Pairs: sums[m][n] += a[m][2k] * b[k][2n] + a[m][2k + 1] * b[k][2n + 1].
inline void multiply(int sums, int a, int b) {
  require_configured();
  for (int m = 0; m < kRows; m++)
    for (int n = 0; n < 16; n++) {
      float sum;
      memcpy(&sum, tile[sums][m] + 4 * n, 4);
      for (int k = 0; k < 16; k++)
        for (int e = 0; e < 4; e += 2)
          sum += half(tile[a][m] + 4 * k + e) * half(tile[b][k] + 4 * n + e);
      memcpy(tile[sums][m] + 4 * n, &sum, 4);
    }
}

inline void release() { configured = false; }

}  // namespace tiles

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_zero(t) tiles::zero(t)
#define _tile_loadd(t, base, stride) tiles::load(t, base, stride)
#define _tile_stored(t, base, stride) tiles::store(t, base, stride)
#define _tile_dpbf16ps(sums, a, b) tiles::multiply(sums, a, b)
#define _tile_loadconfig(config) tiles::configure(config)
#define _tile_release() tiles::release()
