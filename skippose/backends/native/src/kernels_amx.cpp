// bfloat16 GEMM on AMX tiles: 32 pixels by 32 channels at a time.
#include "kernels.h"

#if defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace skp {

bool amx_compiled() { return true; }

bool amx_permitted() {
  // ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA: the kernel gives tiles only to those who ask.
  static const bool granted = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return granted;
}

void amx_begin() {
  struct alignas(64) {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } config = {};
  config.palette = 1;
  for (int i = 0; i < 8; i++) {
    config.bytes[i] = 64;
    config.rows[i] = 16;
  }
  _tile_loadconfig(&config);
}

void amx_end() { _tile_release(); }

// Tiles: 0-3 accumulators, 4-5 pixels, 6-7 weights.
void tile_gemm(const TileGemm &g) {
  const int64_t stride = (int64_t)g.pitch * 2;
  const char *ahead = g.ahead;
  for (int row = 0; row < g.n; row += 32) {
    const bool two = g.n - row > 16;
    const bf16 *w = g.w;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int t = 0; t < g.ntaps; t++) {
      const bf16 *a = g.taps[t] + (int64_t)row * g.pitch;
      for (int k = 0; k < g.k32; k++, w += 1024) {
        for (int l = 0; l < g.lines; l++) __builtin_prefetch(ahead + l * 64, 0, 2);
        ahead += g.lines * 64;
        _tile_loadd(4, a + k * 32, stride);
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + 512, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (two) {
          _tile_loadd(5, a + (int64_t)16 * g.pitch + k * 32, stride);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
      }
    }
    float *acc = g.acc + (int64_t)row * kChunk;
    _tile_stored(0, acc, kChunk * 4);
    _tile_stored(1, acc + 16, kChunk * 4);
    if (two) {
      _tile_stored(2, acc + 16 * kChunk, kChunk * 4);
      _tile_stored(3, acc + 16 * kChunk + 16, kChunk * 4);
    }
  }
}

}  // namespace skp
#else
namespace skp {
bool amx_compiled() { return false; }
bool amx_permitted() { return false; }
void amx_begin() {}
void amx_end() {}
void tile_gemm(const TileGemm &) {}
}  // namespace skp
#endif
