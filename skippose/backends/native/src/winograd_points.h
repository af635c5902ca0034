// Where F(4x4, 3x3) evaluates its polynomials: 0, +-kNear, +-kFar and infinity. With these its
// rounding is a few times that of float32 sums, and less than with the 1 and 2 of the paper; their
// powers, as they are needed, are exact in float32.
#pragma once

namespace skp {

constexpr float kNear = 0.625f, kFar = 1.5f;

template <int T>
struct Tile {};

}  // namespace skp
