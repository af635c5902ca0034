// 3x3 convolutions at stride 1 by fewer products; winograd_impl.h has the formula.
#include "plan.h"
#include "winograd_points.h"

namespace skp {
namespace {

// Outputs of a whole map from which on the products saved outweigh the larger weights that are
// read, also where a tenth of it is open.
constexpr int kLeast2 = 128, kLeast4 = 1024;

// (f(p0), ..., f(infinity)) of f = a + bx + cxx, each over the product of its point's distances to
// the others; `apart` in `to`.
void evaluate(int tile, double a, double b, double c, double *to, int apart) {
  if (tile == 2) {
    to[0] = a;
    to[apart] = (a + b + c) / 2;
    to[2 * apart] = (a - b + c) / 2;
    to[3 * apart] = c;
    return;
  }
  const double aa = kNear * kNear, bb = kFar * kFar;
  to[0] = a / (aa * bb);
  to[apart] = (a + b * kNear + c * aa) / (2 * aa * (aa - bb));
  to[2 * apart] = (a - b * kNear + c * aa) / (2 * aa * (aa - bb));
  to[3 * apart] = (a + b * kFar + c * bb) / (2 * bb * (bb - aa));
  to[4 * apart] = (a - b * kFar + c * bb) / (2 * bb * (bb - aa));
  to[5 * apart] = c;
}

}  // namespace

// The side of the tiles in which a convolution runs, 0 for none. It holds for every frame: so an
// output is to the bit the same whichever other blocks are open.
int Plan::winograd_side(const Conv &c) const {
  const SkpConv &d = c.d;
  const bool can = !c.amx && d.gate != SKP_OUTPUT && d.groups == 1 && d.kh == 3 && d.kw == 3 &&
                   d.sh == 1 && d.sw == 1 && d.dh == 1 && d.dw == 1 &&
                   maps[d.in].pitch % kLane == 0 && maps[d.in].c >= kLane / 2;
  if (!can) return 0;
  const int outputs = d.oh * d.ow;
  const auto fits = [&](int tile) { return d.block_h % tile == 0 && d.block_w % tile == 0; };
  if (fits(4) && outputs >= kLeast4) return 4;
  // Products of pairs are twice as fast, which is more than tiles of 2x2 save.
  if (c.pairs || outputs < kLeast2) return 0;
  // On small maps four blocks of one output run as one: what is open lies together, as larger
  // blocks of the frame do.
  const bool single = d.block_h == 1 && d.block_w == 1 && outputs < kLeast4 &&
                      !(c.measures && d.scale_of_output);
  return fits(2) || single ? 2 : 0;
}

// Nine weights of an output and an input channel to 16 or 36, `plane` apart.
void winograd_weights(int tile, const float *w, float *out, int64_t plane) {
  const int n = tile + 2;
  double half[18], all[36];
  for (int x = 0; x < 3; x++) evaluate(tile, w[x], w[3 + x], w[6 + x], half + x, 3);
  for (int y = 0; y < n; y++)
    evaluate(tile, half[3 * y], half[3 * y + 1], half[3 * y + 2], all + n * y, 1);
  for (int i = 0; i < n * n; i++) out[i * plane] = (float)all[i];
}

// The GEMM of one chunk, as Kernels::gemm: patches (count) of blocks, in rows of `widths` pixels,
// to s.acc, in the order of list_outputs. s.transformed holds their transforms already if `again`.
void Plan::winograd_chunk(const Conv &c, int chunk, const void *const *patches, const int *widths,
                          int count, bool again, const char *ahead, int lines, Scratch &s) const {
  const SkpConv &d = c.d;
  const Chunk &k = c.chunks[chunk];
  const Kernels::Winograd &form = kernels->winograd[c.winograd == 4];
  const int pitch = maps[d.in].pitch, rows = c.run.block_h / c.winograd,
            columns = c.run.block_w / c.winograd;
  const int each = rows * columns, tiles = count * each, outputs = c.winograd * c.winograd;
  // A GEMM writes some rows beyond its last, where the next plane's will be.
  const int64_t plane = (int64_t)tiles * pitch, products = (int64_t)tiles * kChunk;
  float *in = s.transformed.data(), *out = s.products.data();
  if (!again)
    for (int q = 0; q < count; q++)
      form.input[c.half_patch](patches[q], widths[q], pitch, rows, columns, plane,
                               in + (int64_t)q * each * pitch);
  for (int t = 0; t < tiles; t++) s.rows_of[t] = in + (int64_t)t * pitch;
  const int64_t size = (int64_t)k.channels * k.width;
  for (int f = 0; f < c.products; f++) {
    fetch_chunk(c, chunk, f * tiles * outputs / c.products, (f + 1) * tiles * outputs / c.products,
                s);
    const int offset = (int)(f * plane);
    kernels->gemm(s.rows_of.data(), tiles, &offset, 1, k.channels, c.weight + k.weight + f * size,
                  k.width, out + f * products, ahead ? ahead + f * size * sizeof(float) : nullptr,
                  lines);
  }
  for (int q = 0; q < count; q++)
    form.output(out + (int64_t)q * each * kChunk, products, rows, columns, k.width,
                s.acc.data() + (int64_t)q * outputs * each * kChunk);
}

}  // namespace skp
