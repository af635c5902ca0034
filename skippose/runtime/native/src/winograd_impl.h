// Winograd's F(2x2, 3x3): four outputs of a 3x3 convolution by 16 products instead of 36.
// Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (CVPR 2016), section 4.1. Its
// factors are 0, 1, -1 and 1/2, so rounding stays that of float32 sums. Included by kernels_impl.h.

namespace skp {
namespace {

// (1 0 -1 0, 0 1 1 0, 0 -1 1 0, 0 1 0 -1) times four values that lie `step` apart.
inline void transform_four(const V *in, int step, V *out) {
  out[0] = V::sub(in[0], in[2 * step]);
  out[step] = V::add(in[step], in[2 * step]);
  out[2 * step] = V::sub(in[2 * step], in[step]);
  out[3 * step] = V::sub(in[step], in[3 * step]);
}

void winograd_input(const float *patch, int patch_w, int pitch, int rows, int columns,
                    int64_t plane, float *out) {
  for (int ty = 0; ty < rows; ty++)
    for (int tx = 0; tx < columns; tx++, out += pitch) {
      const float *corner = patch + ((int64_t)2 * ty * patch_w + 2 * tx) * pitch;
      for (int c = 0; c < pitch; c += V::N) {
        V a[16], b[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
          a[i] = V::load(corner + ((int64_t)(i / 4) * patch_w + i % 4) * pitch + c);
#pragma GCC unroll 4
        for (int x = 0; x < 4; x++) transform_four(a + x, 4, b + x);
#pragma GCC unroll 4
        for (int y = 0; y < 4; y++) transform_four(b + 4 * y, 1, a + 4 * y);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i].store(out + i * plane + c);
      }
    }
}

void winograd_output(const float *in, int64_t plane, int rows, int columns, int width, float *acc) {
  const int64_t line = (int64_t)2 * columns * kChunk;
  for (int ty = 0; ty < rows; ty++)
    for (int tx = 0; tx < columns; tx++, in += kChunk) {
      float *out = acc + 2 * ty * line + 2 * tx * kChunk;
      for (int c = 0; c < width; c += V::N) {
        V m[16], s[8];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) m[i] = V::load(in + i * plane + c);
#pragma GCC unroll 4
        for (int x = 0; x < 4; x++) {  // (1 1 1 0, 0 1 -1 -1)
          s[x] = V::add(V::add(m[x], m[4 + x]), m[8 + x]);
          s[4 + x] = V::sub(V::sub(m[4 + x], m[8 + x]), m[12 + x]);
        }
#pragma GCC unroll 2
        for (int y = 0; y < 2; y++) {
          const V *r = s + 4 * y;
          V::add(V::add(r[0], r[1]), r[2]).store(out + y * line + c);
          V::sub(V::sub(r[1], r[2]), r[3]).store(out + y * line + kChunk + c);
        }
      }
    }
}

}  // namespace
}  // namespace skp
