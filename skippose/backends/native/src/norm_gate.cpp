// Gates on norms of the input's change, a row of outputs at a time.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "plan.h"

namespace skp {
namespace {

// Largest norm over one row of outputs, from the powers of the input rows that it reads, or their
// bounds, whose sign is negative.
float largest_norm(const Conv &c, const float *power, int outputs, int channels, float *columns) {
  const SkpConv &d = c.d;
  const int width = (outputs - 1) * d.sw + (d.kw - 1) * d.dw + 1;
  const int64_t down = (int64_t)d.dh * c.patch_w;
  for (int i = 0; i < width; i++) columns[i] = fabsf(power[i]);
  for (int ky = 1; ky < d.kh; ky++)
    for (int i = 0; i < width; i++) {
      const float v = fabsf(power[ky * down + i]);
      columns[i] = d.p ? columns[i] + v : std::max(columns[i], v);
    }
  float largest = 0;
  for (int x = 0; x < outputs; x++) {
    float sum = 0;
    for (int kx = 0; kx < d.kw; kx++) {
      const float v = columns[x * d.sw + kx * d.dw];
      sum = d.p ? sum + v : std::max(sum, v);
    }
    largest = std::max(largest, sum);
  }
  if (d.p && d.normalize) largest /= (float)(channels * c.taps);
  return d.p == 2 ? sqrtf(largest) : largest;
}

// How far pixels are from what is held, after what moved in this frame: where that was nothing
// before, just that; elsewhere at most the sum, whose sign is negative.
void add_moved(const Map &x, int64_t first, int n, float *power) {
  constexpr float kRounding = 1 + 1e-5f;  // a bound must not lie below what is summed otherwise
  for (int i = 0; i < n; i++) {
    if (!x.dirty[first + i]) continue;
    const float *moved = x.moved + (first + i) * x.planes;
    float sum = moved[0];
    for (int k = 1; k < x.planes; k++) sum += moved[k];
    power[i] = power[i] == 0 ? sum : -(fabsf(power[i]) + sum * kRounding);
  }
}

}  // namespace

// A block's input and what its gate knows of it.
struct Plan::Look {
  Look(const Plan &plan, const Conv &c, int slot, int by, int bx)
      : x(plan.maps[c.d.in]), b(c.outputs_of(by, bx)), corner(c.corner(slot, by, bx)),
        block((int64_t)slot * c.blocks + by * c.blocks_x + bx), xa(std::max(0, -corner.x)),
        xb(std::min(c.patch_w, x.w - corner.x)) {}

  bool has_row(int r) const { return xb > xa && corner.y + r >= 0 && corner.y + r < x.h; }
  int64_t row(int r) const { return (int64_t)corner.slot * x.h + corner.y + r; }
  bool row_changed(int r) const { return x.rows[row(r)]; }
  // Whether a row of outputs reads one that changed; if not, it was below the limit before.
  bool reads_changed(const SkpConv &d, int row_out) const {
    for (int ky = 0; ky < d.kh; ky++) {
      const int r = row_out * d.sh + ky * d.dh;
      if (has_row(r) && row_changed(r)) return true;
    }
    return false;
  }
  int64_t first(int r) const { return row(r) * x.w + corner.x + xa; }

  const Map &x;
  const Grid::Block b;
  const Grid::Corner corner;
  const int64_t block;
  const int xa, xb;                             // columns of the patch that the map has
};

// Whether a row of outputs has a norm, or a bound of one, above the limit.
bool Plan::above(const Conv &c, const Look &at, const float *power, int row_out,
                 Scratch &s) const {
  const float limit = c.d.eps * (c.d.relative ? c.scale[at.corner.slot] : 1);
  const float *from = power + (int64_t)row_out * c.d.sh * c.patch_w;
  return largest_norm(c, from, at.b.x1 - at.b.x0, at.x.c, s.columns.data()) * c.d.gain > limit;
}

// Powers of a row of the input, of pixels where `where` says so (null: all).
void Plan::measure_row(const Conv &c, const Look &at, int r, const uint8_t *where,
                       float *power) const {
  const Map &x = at.x;
  const int64_t pixel = x.pitch * element_size;
  const char *then = nullptr;
  if (!c.d.frame_source)
    then = c.d.previous ? x.before + at.first(r) * pixel
                        : c.held + (at.block * c.patch_h + r) * c.patch_w * pixel + at.xa * pixel;
  typed->power(x.data + at.first(r) * pixel, then, where, at.xb - at.xa, x.pitch, x.c, c.d.p,
               power + (int64_t)r * c.patch_w + at.xa);
}

// Bounds of a block's norms after what moved in this frame: the first row of outputs that may be
// above the limit, or -1. Fetches what is held of its input, which lies past the caches.
int Plan::bound(Conv &c, int slot, int by, int bx, Scratch &s) {
  const SkpConv &d = c.d;
  const Look at(*this, c, slot, by, bx);
  float *power = c.power + at.block * c.patch_h * c.patch_w;
  for (int r = 0; r < c.patch_h; r++)
    if (at.has_row(r) && at.row_changed(r))
      add_moved(at.x, at.first(r), at.xb - at.xa, power + (int64_t)r * c.patch_w + at.xa);
  const int rows = at.b.y1 - at.b.y0;
  int row_out = 0;
  while (row_out < rows && !(at.reads_changed(d, row_out) && above(c, at, power, row_out, s)))
    row_out++;
  if (row_out == rows) return -1;
  const int64_t pixel = at.x.pitch * element_size;
  for (int ky = 0; ky < d.kh; ky++) {
    const int r = row_out * d.sh + ky * d.dh;
    const char *held = c.held + (at.block * c.patch_h + r) * c.patch_w * pixel;
    for (int i = at.xa; i < at.xb; i++)
      if (signbit(power[r * c.patch_w + i]))
        for (int64_t byte = 0; byte < pixel; byte += 64)
          __builtin_prefetch(held + i * pixel + byte, 0, 3);
  }
  return row_out;
}

// Whether a block opens that may be above the limit from a row of outputs on: the first that is
// opens it. Bounds become norms where they are needed.
bool Plan::decide_bounded(Conv &c, int slot, int by, int bx, int row_out, Scratch &s) {
  const SkpConv &d = c.d;
  const Look at(*this, c, slot, by, bx);
  float *power = c.power + at.block * c.patch_h * c.patch_w;
  for (; row_out < at.b.y1 - at.b.y0; row_out++) {
    if (!at.reads_changed(d, row_out) || !above(c, at, power, row_out, s)) continue;
    bool measured = false;
    for (int ky = 0; ky < d.kh; ky++) {
      const int r = row_out * d.sh + ky * d.dh;
      const float *known = power + (int64_t)r * c.patch_w + at.xa;
      bool any = false;
      for (int i = 0; i < at.xb - at.xa; i++) any |= s.wanted[i] = signbit(known[i]);
      if (any) measure_row(c, at, r, s.wanted.data(), power);
      measured |= any;
    }
    if (!measured || above(c, at, power, row_out, s)) return true;
  }
  return false;
}

bool Plan::decide_norm(Conv &c, int slot, int by, int bx, Scratch &s) {
  const SkpConv &d = c.d;
  const Look at(*this, c, slot, by, bx);
  const int pixels = c.patch_h * c.patch_w;
  const bool all = d.frame_source || c.unsure;
  float *power;
  if (c.power) {
    power = c.power + at.block * pixels;
  } else {
    s.power.resize(std::max(s.power.size(), (size_t)pixels));
    power = s.power.data();
    memset(power, 0, sizeof(float) * pixels);
  }
  // A row of outputs is judged as soon as its input is there, for the first above the limit opens
  // the block.
  int row_out = 0;
  for (int r = 0; r < c.patch_h; r++) {
    if (at.has_row(r) && (all || at.row_changed(r)))
      measure_row(c, at, r, all ? nullptr : at.x.dirty + at.first(r), power);
    for (; row_out < at.b.y1 - at.b.y0 && row_out * d.sh + (d.kh - 1) * d.dh <= r; row_out++)
      if ((all || at.reads_changed(d, row_out)) && above(c, at, power, row_out, s))
        return true;
  }
  return false;
}

}  // namespace skp
