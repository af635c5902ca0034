// 3x3 convolutions at stride 1 by fewer products; winograd_impl.h has the formula.
#include "plan.h"

namespace skp {
namespace {

constexpr int kLeastTiles = 32;   // of a whole map: below them reading more weights costs more

int tiles_of(const SkpConv &d) { return (d.oh + 1) / 2 * ((d.ow + 1) / 2); }

}  // namespace

// Whether a convolution runs in this form, which holds for every frame: so an output is to the bit
// the same whichever other blocks are open.
bool Plan::takes_winograd(const Conv &c) const {
  const SkpConv &d = c.d;
  return !c.tiles && !c.pairs && d.gate != SKP_OUTPUT && d.groups == 1 && d.kh == 3 && d.kw == 3 &&
         d.sh == 1 && d.sw == 1 && d.dh == 1 && d.dw == 1 && d.block_h % 2 == 0 &&
         d.block_w % 2 == 0 && maps[d.in].pitch % kLane == 0 && maps[d.in].c >= kLane / 2 &&
         tiles_of(d) >= kLeastTiles;
}

// Nine weights of an output and an input channel to 16, `plane` apart: G w G', G being
// (1 0 0, 1/2 1/2 1/2, 1/2 -1/2 1/2, 0 0 1).
void winograd_weights(const float *w, float *out, int64_t plane) {
  auto each = [](double a, double b, double c, double *to, int apart) {
    to[0] = a;
    to[apart] = (a + b + c) / 2;
    to[2 * apart] = (a - b + c) / 2;
    to[3 * apart] = c;
  };
  double half[12], all[16];
  for (int x = 0; x < 3; x++) each(w[x], w[3 + x], w[6 + x], half + x, 3);
  for (int y = 0; y < 4; y++) each(half[3 * y], half[3 * y + 1], half[3 * y + 2], all + 4 * y, 1);
  for (int i = 0; i < 16; i++) out[i * plane] = (float)all[i];
}

// The GEMM of one chunk, as Kernels::gemm: patches (count) of blocks to s.acc, in the order of
// list_outputs. s.transformed holds the patches' transforms already if `again`.
void Plan::winograd_chunk(const Conv &c, int chunk, const void *const *patches, int count,
                          bool again, const char *ahead, int lines, Scratch &s) const {
  const SkpConv &d = c.d;
  const Chunk &k = c.chunks[chunk];
  const int pitch = maps[d.in].pitch, rows = d.block_h / 2, columns = d.block_w / 2;
  const int each = rows * columns, tiles = count * each;
  // A GEMM writes some rows beyond its last, where the next plane's will be.
  const int64_t plane = (int64_t)tiles * pitch, products = (int64_t)tiles * kChunk;
  float *in = s.transformed.data(), *out = s.products.data();
  if (!again)
    for (int q = 0; q < count; q++)
      kernels->winograd_input((const float *)patches[q], c.patch_w, pitch, rows, columns, plane,
                              in + (int64_t)q * each * pitch);
  for (int t = 0; t < tiles; t++) s.rows_of[t] = in + (int64_t)t * pitch;
  const int64_t size = (int64_t)k.channels * k.width;
  for (int f = 0; f < 16; f++) {
    fetch_chunk(c, chunk, f * tiles / 4, (f + 1) * tiles / 4, s);
    const int offset = (int)(f * plane);
    kernels->gemm(s.rows_of.data(), tiles, &offset, 1, k.channels, c.weight + k.weight + f * size,
                  k.width, out + f * products, ahead ? ahead + f * size * sizeof(float) : nullptr,
                  lines);
  }
  for (int q = 0; q < count; q++)
    kernels->winograd_output(out + (int64_t)q * each * kChunk, products, rows, columns, k.width,
                             s.acc.data() + (int64_t)q * 4 * each * kChunk);
}

}  // namespace skp
