// Which blocks run: gates, on the blocks whose receptive field changed. Norms: norm_gate.cpp.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "plan.h"

namespace skp {
namespace {

// Input rows (or columns) that outputs [o0, o1) read, clipped to the map.
struct Span {
  int begin, end;
};
Span input_span(int o0, int o1, int stride, int pad, int kernel, int dilation, int size) {
  const int begin = o0 * stride - pad, end = (o1 - 1) * stride - pad + (kernel - 1) * dilation + 1;
  return {std::max(begin, 0), std::min(end, size)};
}

bool any_of(const uint8_t *flags, int from, int to) {
  for (int i = from; i < to; i++)
    if (flags[i]) return true;
  return false;
}

bool field_changed(const Conv &c, const Map &x, int slot, int oy, int ox) {
  const SkpConv &d = c.d;
  for (int ky = 0; ky < d.kh; ky++) {
    const int iy = oy * d.sh - d.top + ky * d.dh;
    if (iy < 0 || iy >= x.h) continue;
    for (int kx = 0; kx < d.kw; kx++) {
      const int ix = ox * d.sw - d.left + kx * d.dw;
      if (ix >= 0 && ix < x.w && x.dirty[((int64_t)slot * x.h + iy) * x.w + ix]) return true;
    }
  }
  return false;
}

bool block_changed(const Conv &c, const Map &x, int slot, const Grid::Block &b) {
  const SkpConv &d = c.d;
  if (c.holes) {
    for (int oy = b.y0; oy < b.y1; oy++)
      for (int ox = b.x0; ox < b.x1; ox++)
        if (field_changed(c, x, slot, oy, ox)) return true;
    return false;
  }
  const Span ys = input_span(b.y0, b.y1, d.sh, d.top, d.kh, d.dh, x.h);
  const Span xs = input_span(b.x0, b.x1, d.sw, d.left, d.kw, d.dw, x.w);
  for (int iy = ys.begin; iy < ys.end; iy++) {
    const int64_t row = (int64_t)slot * x.h + iy;
    if (x.rows[row] && any_of(x.dirty + row * x.w, xs.begin, xs.end)) return true;
  }
  return false;
}

}  // namespace

void Plan::gate_rows(Conv &c, int from, int to, Scratch &s) {
  const SkpConv &d = c.d;
  const Map &x = maps[d.in];
  Map &out = maps[d.out];
  for (int r = from; r < to; r++) {
    const int slot = r / c.blocks_y, by = r % c.blocks_y;
    const bool forced = dense_[slot] != 0;
    const Grid::Block rows = c.outputs_of(by, 0);
    const Span ys = input_span(rows.y0, rows.y1, d.sh, d.top, d.kh, d.dh, x.h);
    const uint8_t *in_rows = x.rows + (int64_t)slot * x.h;
    const bool input = c.unsure || any_of(in_rows, ys.begin, ys.end);
    bool skips = false;
    for (int i = 0; i < d.nskip; i++)
      skips |= any_of(maps[d.skip[i]].rows + (int64_t)slot * out.h, rows.y0, rows.y1);
    int32_t *list = c.open_rows + (int64_t)r * c.blocks_x;
    int count = 0;
    int64_t looked = 0;
    uint8_t *map = c.open_map + (int64_t)r * c.blocks_x;
    if (!forced && !input && !skips && !c.masked) {
      if (c.row_count[r]) memset(map, 0, c.blocks_x);
      c.row_count[r] = 0;
      if (c.looked) c.looked[r] = 0;
      continue;
    }
    const bool bounded = c.bounded && !forced && !c.masked && input && !c.unsure;
    // All bounds first, so that what is held of one block arrives while others are looked at.
    for (int bx = 0; bounded && bx < c.blocks_x; bx++)
      s.above[bx] =
          block_changed(c, x, slot, c.outputs_of(by, bx)) ? bound(c, slot, by, bx, s) : -1;
    for (int bx = 0; bx < c.blocks_x; bx++) {
      const Grid::Block b = c.outputs_of(by, bx);
      bool open = forced;
      if (!forced && c.masked) {
        open = c.mask[(int64_t)r * c.blocks_x + bx];
      } else if (bounded) {
        open = s.above[bx] >= 0 && decide_bounded(c, slot, by, bx, s.above[bx], s);
      } else if (!forced && input && (c.unsure || block_changed(c, x, slot, b))) {
        open = d.gate == SKP_NO_GATE || decide(c, slot, by, bx, s);
        if (c.looks)
          for (int oy = b.y0; oy < b.y1; oy++)
            for (int ox = b.x0; ox < b.x1; ox++) looked += field_changed(c, x, slot, oy, ox);
      }
      map[bx] = open;
      if (open) {
        list[count++] = slot * c.blocks + by * c.blocks_x + bx;
        hold_block(c, slot, by, bx);
      } else if (skips) {
        add_skips(c, slot, by, bx, s);
      }
    }
    if (forced && c.measures && !d.scale_of_output) {
      // Any partition of the input will do; this thread takes the rows next to its blocks.
      const int y0 = (int64_t)by * x.h / c.blocks_y, y1 = (int64_t)(by + 1) * x.h / c.blocks_y;
      double sum = 0;
      s.power.resize(std::max(s.power.size(), (size_t)x.w));
      for (int iy = y0; iy < y1; iy++) {
        const char *row = x.data + ((int64_t)slot * x.h + iy) * x.w * x.pitch * element_size;
        typed->power(row, nullptr, nullptr, x.w, x.pitch, x.c, 1, s.power.data());
        for (int i = 0; i < x.w; i++) sum += s.power[i];
      }
      c.sums[(int64_t)slot * c.blocks + by] = sum;
    }
    c.row_count[r] = count;
    // A slot that was cut is here for the second time: what its gate looked at before stays.
    if (c.looked && dense_[slot] != SKP_CUT) c.looked[r] = looked;
  }
}

bool Plan::decide(Conv &c, int slot, int by, int bx, Scratch &s) {
  if (c.d.gate == SKP_LINEAR) return decide_linear(c, slot, by, bx);
  if (c.d.gate == SKP_OUTPUT) return decide_output(c, slot, by, bx, s);
  return decide_norm(c, slot, by, bx, s);
}

float Plan::linear_at(const Conv &c, int slot, int oy, int ox, bool change) {
  const SkpConv &d = c.d;
  const Map &x = maps[d.in];
  float sum = 0;
  for (int ky = 0; ky < d.kh; ky++) {
    const int iy = oy * d.sh - d.top + ky * d.dh;
    if (iy < 0 || iy >= x.h) continue;
    for (int kx = 0; kx < d.kw; kx++) {
      const int ix = ox * d.sw - d.left + kx * d.dw;
      if (ix < 0 || ix >= x.w) continue;
      const int64_t pixel = ((int64_t)slot * x.h + iy) * x.w + ix;
      if (change && !x.dirty[pixel]) continue;
      const int64_t at = pixel * x.pitch * element_size;
      sum += typed->dot(x.data + at, change ? x.before + at : nullptr,
                        c.phi + (ky * d.kw + kx) * x.c, x.c, d.rectify);
    }
  }
  return sum;
}

// phi of |x - held|, of an output of a block.
float Plan::linear_since_held(const Conv &c, int slot, int by, int bx, int oy, int ox) const {
  const SkpConv &d = c.d;
  const Map &x = maps[d.in];
  const int64_t block = (int64_t)slot * c.blocks + by * c.blocks_x + bx;
  const size_t pixel = x.pitch * element_size;
  const char *held = c.held + block * c.patch * element_size;
  float sum = 0;
  for (int ky = 0; ky < d.kh; ky++) {
    const int iy = oy * d.sh - d.top + ky * d.dh, r = (oy - by * c.block_h) * d.sh + ky * d.dh;
    if (iy < 0 || iy >= x.h) continue;
    for (int kx = 0; kx < d.kw; kx++) {
      const int ix = ox * d.sw - d.left + kx * d.dw, q = (ox - bx * c.block_w) * d.sw + kx * d.dw;
      if (ix < 0 || ix >= x.w) continue;
      sum += typed->dot(x.data + (((int64_t)slot * x.h + iy) * x.w + ix) * pixel,
                        held + ((int64_t)r * c.patch_w + q) * pixel,
                        c.phi + (ky * d.kw + kx) * x.c, x.c, d.rectify);
    }
  }
  return sum;
}

bool Plan::decide_linear(Conv &c, int slot, int by, int bx) {
  const SkpConv &d = c.d;
  const Grid::Block b = c.outputs_of(by, bx);
  const bool change = d.previous && !d.frame_source;
  float largest = -INFINITY;
  for (int oy = b.y0; oy < b.y1; oy++)
    for (int ox = b.x0; ox < b.x1; ox++) {
      float logit = c.held ? linear_since_held(c, slot, by, bx, oy, ox)
                           : linear_at(c, slot, oy, ox, change);
      if (c.linear) logit -= c.linear[((int64_t)slot * d.oh + oy) * d.ow + ox];
      largest = std::max(largest, logit);
    }
  return largest + d.gate_bias > 0;
}

bool Plan::decide_output(Conv &c, int slot, int by, int bx, Scratch &s) {
  const SkpConv &d = c.d;
  const Map &out = maps[d.out];
  const int32_t block = slot * c.blocks + by * c.blocks_x + bx;
  const bool change = d.previous && !d.frame_source;
  gather_float(c, c, block, s.patch.data());
  if (d.previous && d.frame_source) {  // the gate looks at the frame, the layer at its change
    const Map &x = maps[d.in];
    const auto [own, iy0, ix0] = c.corner(block);
    for (int r = 0; r < c.patch_h; r++)
      for (int q = 0; q < c.patch_w; q++) {
        const int iy = iy0 + r, ix = ix0 + q;
        if (iy < 0 || ix < 0 || iy >= x.h || ix >= x.w) continue;
        const int64_t at = (((int64_t)own * x.h + iy) * x.w + ix) * x.pitch;
        typed->delta(x.data + at * element_size, nullptr, nullptr, 1, x.pitch,
                     s.patch.data() + ((int64_t)r * c.patch_w + q) * x.pitch);
      }
  }
  const void *patch = s.patch.data();
  const int n = list_outputs(c, c, &block, 1, &patch, c.patch_w, s);
  s.power.assign(std::max(s.power.size(), (size_t)n), 0);
  std::vector<int> taps(c.taps);
  for (int t = 0; t < c.taps; t++)
    taps[t] = ((t / d.kw) * d.dh * c.patch_w + (t % d.kw) * d.dw) * maps[d.in].pitch;
  for (const Chunk &k : c.chunks) {
    std::vector<const void *> px(n);
    for (int i = 0; i < n; i++) px[i] = (const float *)s.pixels[i] + k.in;
    if (c.depthwise)
      kernels->depthwise(px.data(), n, taps.data(), c.taps, c.weight + k.weight, k.width,
                         s.acc.data());
    else
      kernels->gemm(px.data(), n, taps.data(), c.taps, k.channels, c.weight + k.weight, k.width,
                    s.acc.data(), nullptr, 0);
    for (int i = 0; i < n; i++) {
      const int real = std::min(k.width, out.c - k.first);
      float *acc = s.acc.data() + (int64_t)i * kChunk;
      for (int o = 0; o < real; o++) {
        float v = acc[o];
        if (!change && !d.frame_source) {  // w * d = (w * x + b) - z
          const int64_t at = s.offsets[i] + k.first + o;
          const char *z = c.z ? c.z : out.data;
          const float old = half && !c.z_float ? widen(((const bf16 *)z)[at]) : ((const float *)z)[at];
          v = v + c.bias[k.first + o] - old;
        }
        v = fabsf(v);
        float &sum = s.power[i];
        sum = d.p == 1 ? sum + v : d.p == 2 ? sum + v * v : std::max(sum, v);
      }
    }
  }
  float largest = 0;
  for (int i = 0; i < n; i++) largest = std::max(largest, s.power[i]);
  if (d.p && d.normalize) largest /= (float)out.c;
  if (d.p == 2) largest = sqrtf(largest);
  return largest > d.eps * (d.relative ? c.scale[slot] : 1);
}

// The block will be computed from x, with which its gate then compares: nothing has changed since.
void Plan::hold_block(Conv &c, int slot, int by, int bx) {
  const SkpConv &d = c.d;
  const Grid::Block b = c.outputs_of(by, bx);
  if (c.linear)
    for (int oy = b.y0; oy < b.y1; oy++)
      for (int ox = b.x0; ox < b.x1; ox++)
        c.linear[((int64_t)slot * d.oh + oy) * d.ow + ox] = linear_at(c, slot, oy, ox, false);
  if (!c.power) return;
  const int64_t pixels = (int64_t)c.patch_h * c.patch_w;
  memset(c.power + ((int64_t)slot * c.blocks + by * c.blocks_x + bx) * pixels, 0,
         sizeof(float) * pixels);
}

// A closed block whose additions changed: act(z + skips), nothing convolved.
void Plan::add_skips(Conv &c, int slot, int by, int bx, Scratch &s) {
  const SkpConv &d = c.d;
  Map &out = maps[d.out];
  const Grid::Block b = c.outputs_of(by, bx);
  static const float zeros[kChunk] = {};
  for (int oy = b.y0; oy < b.y1; oy++)
    for (int ox = b.x0; ox < b.x1; ox++) {
      const int64_t pixel = ((int64_t)slot * out.h + oy) * out.w + ox;
      bool dirty = false;
      for (int i = 0; i < d.nskip; i++) dirty |= maps[d.skip[i]].dirty[pixel] != 0;
      if (!dirty) continue;
      uint8_t changed = 0;
      for (const Chunk &k : c.chunks) {
        const int64_t at = pixel * out.pitch + k.first;
        float *acc = s.acc.data();
        if (half && !c.z_float)
          for (int o = 0; o < k.width; o++) acc[o] = widen(((const bf16 *)c.z)[at + o]);
        else
          memcpy(acc, (const float *)c.z + at, sizeof(float) * k.width);
        Epilogue e = {};
        e.acc = acc;
        e.offset = &at;
        e.n = 1;
        e.width = k.width;
        e.bias = zeros;
        e.z_float = c.z_float;
        e.y = out.data;
        e.before = out.before;
        e.scale = c.scale_o ? c.scale_o + k.first : nullptr;
        e.shift = c.shift_o ? c.shift_o + k.first : nullptr;
        e.nskip = d.nskip;
        for (int i = 0; i < d.nskip; i++) e.skip[i] = maps[d.skip[i]].data;
        e.act = {d.act, d.act_a, d.act_b};
        e.changed = &changed;
        float moved = 0;
        e.moved = out.moved ? &moved : nullptr;
        typed->epilogue(e);
        if (out.moved) out.moved[pixel * out.planes + (&k - c.chunks.data())] = moved;
      }
      if (changed) out.mark((int64_t)slot * out.h + oy, ox);
    }
}

}  // namespace skp
