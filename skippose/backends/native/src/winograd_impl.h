// Winograd's F(2x2, 3x3) and F(4x4, 3x3): the outputs of a tile of a 3x3 convolution by 16 products
// instead of 36, and by 36 instead of 144. Lavin, Gray: Fast Algorithms for Convolutional Neural
// Networks (CVPR 2016), sections 4.1 and 4.3; polynomials through 0, 1, -1 and through the points
// of winograd_points.h. Included by kernels_impl.h.
#include "winograd_points.h"

namespace skp {
namespace {

// (1 0 -1 0, 0 1 1 0, 0 -1 1 0, 0 1 0 -1) times four values.
inline void transform_input(const V *in, V *out, const Tile<2> &) {
  out[0] = V::sub(in[0], in[2]);
  out[1] = V::add(in[1], in[2]);
  out[2] = V::sub(in[2], in[1]);
  out[3] = V::sub(in[1], in[3]);
}

// (1 1 1 0, 0 1 -1 -1)
inline void transform_output(const V *in, V *out, int to, const Tile<2> &) {
  out[0] = V::add(V::add(in[0], in[1]), in[2]);
  out[to] = V::sub(V::sub(in[1], in[2]), in[3]);
}

// (aabb 0 -aa-bb 0 1 0, 0 -abb -bb a 1 0, 0 abb -bb -a 1 0, 0 -aab -aa b 1 0, 0 aab -aa -b 1 0,
//  0 aabb 0 -aa-bb 0 1)
inline void transform_input(const V *in, V *out, const Tile<4> &) {
  constexpr float a = kNear, b = kFar, aa = a * a, bb = b * b;
  const V x1 = in[1], x2 = in[2], x3 = in[3], x4 = in[4];
  const V outer = V::set(aa * bb), inner = V::set(-aa - bb);
  out[0] = V::fma(inner, x2, V::fma(outer, in[0], x4));
  out[5] = V::fma(inner, x3, V::fma(outer, x1, in[5]));
  const V even_a = V::fma(V::set(-bb), x2, x4), even_b = V::fma(V::set(-aa), x2, x4);
  const V odd_a = V::mul(V::set(a), V::fma(V::set(-bb), x1, x3));
  const V odd_b = V::mul(V::set(b), V::fma(V::set(-aa), x1, x3));
  out[1] = V::add(even_a, odd_a);
  out[2] = V::sub(even_a, odd_a);
  out[3] = V::add(even_b, odd_b);
  out[4] = V::sub(even_b, odd_b);
}

// (1 1 1 1 1 0, 0 a -a b -b 0, 0 aa aa bb bb 0, 0 aaa -aaa bbb -bbb 1)
inline void transform_output(const V *in, V *out, int to, const Tile<4> &) {
  constexpr float a = kNear, b = kFar, aa = a * a, bb = b * b;
  const V plus_a = V::add(in[1], in[2]), minus_a = V::sub(in[1], in[2]);
  const V plus_b = V::add(in[3], in[4]), minus_b = V::sub(in[3], in[4]);
  out[0] = V::add(in[0], V::add(plus_a, plus_b));
  out[to] = V::fma(V::set(a), minus_a, V::mul(V::set(b), minus_b));
  out[2 * to] = V::fma(V::set(aa), plus_a, V::mul(V::set(bb), plus_b));
  out[3 * to] = V::fma(V::set(a * aa), minus_a, V::fma(V::set(b * bb), minus_b, in[5]));
}

template <int T, class E>
void winograd_input(const void *patch, int patch_w, int pitch, int rows, int columns,
                    int64_t plane, float *out) {
  constexpr int N = T + 2;
  for (int ty = 0; ty < rows; ty++)
    for (int tx = 0; tx < columns; tx++, out += pitch) {
      const E *corner = (const E *)patch + ((int64_t)T * ty * patch_w + T * tx) * pitch;
      for (int c = 0; c < pitch; c += V::N) {
        V lines[N * N];
#pragma GCC unroll 6
        for (int x = 0; x < N; x++) {
          V column[N];
#pragma GCC unroll 6
          for (int y = 0; y < N; y++)
            column[y] = V::load(corner + ((int64_t)y * patch_w + x) * pitch + c);
          V moved[N];
          transform_input(column, moved, Tile<T>());
#pragma GCC unroll 6
          for (int y = 0; y < N; y++) lines[y * N + x] = moved[y];
        }
#pragma GCC unroll 6
        for (int y = 0; y < N; y++) {
          V moved[N];
          transform_input(lines + y * N, moved, Tile<T>());
#pragma GCC unroll 6
          for (int x = 0; x < N; x++) moved[x].store(out + (y * N + x) * plane + c);
        }
      }
    }
}

template <int T>
void winograd_output(const float *in, int64_t plane, int rows, int columns, int width, float *acc) {
  constexpr int N = T + 2;
  const int64_t line = (int64_t)T * columns * kChunk;
  for (int ty = 0; ty < rows; ty++)
    for (int tx = 0; tx < columns; tx++, in += kChunk) {
      float *out = acc + T * ty * line + T * tx * kChunk;
      for (int c = 0; c < width; c += V::N) {
        V lines[T * N];
#pragma GCC unroll 6
        for (int x = 0; x < N; x++) {
          V column[N];
#pragma GCC unroll 6
          for (int y = 0; y < N; y++) column[y] = V::load(in + (y * N + x) * plane + c);
          transform_output(column, lines + x, N, Tile<T>());
        }
#pragma GCC unroll 4
        for (int y = 0; y < T; y++) {
          V moved[T];
          transform_output(lines + y * N, moved, 1, Tile<T>());
#pragma GCC unroll 4
          for (int x = 0; x < T; x++) moved[x].store(out + y * line + x * kChunk + c);
        }
      }
    }
}

}  // namespace
}  // namespace skp
