// Convolutions of the blocks that opened: gather, GEMM, epilogue.
#include <string.h>

#include <algorithm>

#include "plan.h"

namespace skp {
namespace {

constexpr int64_t kWorthFetching = 32768;  // bytes of a chunk's weights

// Cache lines to fetch ahead with each of `steps` inner steps of each of `groups` groups, so that
// `bytes` are on their way when the chunk is done; 0 where that is not worth it.
struct Ahead {
  const char *at = nullptr;
  int lines = 0;
};
Ahead fetch_ahead(int chunk, int c1, bool last, int groups, int most, int per_step,
                  int64_t bytes, const char *weight, const char *next) {
  if (bytes < kWorthFetching || groups > most || groups == 0) return {};
  const bool inside = chunk + 1 < c1;
  if (!inside && !(last && next)) return {};
  return {inside ? weight + bytes : next, (per_step + groups - 1) / groups};
}

const char *chunk_weight(const Conv &c, int chunk) {
  const Chunk &k = c.chunks[chunk];
  return c.half_weight ? (const char *)(c.half_weight + k.half_weight)
                       : (const char *)(c.weight + k.weight);
}

inline void fetch(const void *from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char *)from + at, 0, 3);
}

}  // namespace

// A block's input with its halo where it lies in its map; null where it reaches beyond the map, or
// where the kernels need it in another form.
const void *Plan::in_place(const Conv &c, const Grid &g, int64_t block) const {
  const Map &x = maps[c.d.in];
  const auto [slot, iy0, ix0] = g.corner(block);
  if (c.d.previous || half != c.half_patch) return nullptr;
  if (iy0 < 0 || ix0 < 0 || iy0 + g.patch_h > x.h || ix0 + g.patch_w > x.w) return nullptr;
  return x.data + (((int64_t)slot * x.h + iy0) * x.w + ix0) * x.pitch * element_size;
}

// For the gate to compare with.
void Plan::hold(const Conv &c, int64_t block, const void *patch, int width) const {
  const int64_t pixel = maps[c.d.in].pitch * element_size;
  kernels->stream(c.held + block * c.patch * element_size, patch, c.patch_h, c.patch_w * pixel,
                  width * pixel);
}

// The same of the open blocks among those that run as one, whose input is given.
void Plan::hold_open(const Conv &c, int64_t block, const void *patch, int width) const {
  if (c.run.blocks == c.blocks) return hold(c, block, patch, width);
  const int64_t pixel = maps[c.d.in].pitch * element_size;
  const int slot = block / c.run.blocks, at = block % c.run.blocks;
  const Grid::Block b = c.run.outputs_of(at / c.run.blocks_x, at % c.run.blocks_x);
  for (int y = b.y0; y < b.y1; y += c.block_h)
    for (int x = b.x0; x < b.x1; x += c.block_w) {
      const int64_t own = ((int64_t)slot * c.blocks_y + y / c.block_h) * c.blocks_x + x / c.block_w;
      const int64_t corner = (int64_t)(y - b.y0) * c.sh * width + (x - b.x0) * c.sw;
      if (c.open_map[own]) hold(c, own, (const char *)patch + corner * pixel, width);
    }
}

// A copy of a block's input as a patch.
void Plan::gather(const Conv &c, const Grid &g, int64_t block, void *patch) const {
  const Map &x = maps[c.d.in];
  const auto [slot, iy0, ix0] = g.corner(block);
  const int xa = std::max(0, -ix0), xb = std::min(g.patch_w, x.w - ix0);
  const int ya = std::max(0, -iy0), yb = std::min(g.patch_h, x.h - iy0);
  const size_t pixel = x.pitch * element_size;
  if (xa > 0 || ya > 0 || xb < g.patch_w || yb < g.patch_h)
    memset(patch, 0, g.patch * element_size);
  if (xb > xa)
    for (int r = ya; r < yb; r++)
      memcpy((char *)patch + ((int64_t)r * g.patch_w + xa) * pixel,
             x.data + (((int64_t)slot * x.h + iy0 + r) * x.w + ix0 + xa) * pixel,
             (xb - xa) * pixel);
}

// A copy in float32: of x, or under `previous` of its change since the last frame.
void Plan::gather_float(const Conv &c, const Grid &g, int64_t block, float *patch) const {
  const SkpConv &d = c.d;
  const Map &x = maps[d.in];
  const auto [slot, iy0, ix0] = g.corner(block);
  const bool change = d.previous && !dense_[slot];
  if (!half && !change) return gather(c, g, block, patch);
  const int xa = std::max(0, -ix0), xb = std::min(g.patch_w, x.w - ix0);
  memset(patch, 0, sizeof(float) * g.patch);
  if (xb <= xa) return;
  for (int r = std::max(0, -iy0); r < std::min(g.patch_h, x.h - iy0); r++) {
    const int64_t pixel = ((int64_t)slot * x.h + iy0 + r) * x.w + ix0 + xa;
    const int64_t first = pixel * x.pitch * element_size;
    typed->delta(x.data + first, change ? x.before + first : nullptr, x.dirty + pixel, xb - xa,
                 x.pitch, patch + ((int64_t)r * g.patch_w + xa) * x.pitch);
  }
}

// Where each output of some blocks reads and writes: fills s.pixels, s.places, s.offsets and
// s.block_of; `width` is the pixels of a row of the patches. In Winograd's form all outputs of a
// block are listed, those beyond the map or of a closed one of the gate's blocks without an offset.
int Plan::list_outputs(const Conv &c, const Grid &g, const int32_t *blocks, int count,
                       const void *const *patches, int width, Scratch &s) const {
  const SkpConv &d = c.d;
  const Map &x = maps[d.in], &out = maps[d.out];
  const int64_t pixel = x.pitch * (c.half_patch ? sizeof(bf16) : sizeof(float));
  int n = 0;
  for (int q = 0; q < count; q++) {
    const int slot = blocks[q] / g.blocks, block = blocks[q] % g.blocks;
    const int oy0 = block / g.blocks_x * g.block_h, ox0 = block % g.blocks_x * g.block_w;
    const int real_y = std::min(g.block_h, d.oh - oy0), real_x = std::min(g.block_w, d.ow - ox0);
    const int ys = c.winograd ? g.block_h : real_y, xs = c.winograd ? g.block_w : real_x;
    auto open = [&](int oy, int ox) {
      const int64_t row = (int64_t)slot * c.blocks_y + oy / c.block_h;
      return g.blocks == c.blocks || c.open_map[row * c.blocks_x + ox / c.block_w];
    };
    for (int y = 0; y < ys; y++)
      for (int i = 0; i < xs; i++, n++) {
        s.pixels[n] =
            (const char *)patches[q] + ((int64_t)y * d.sh * width + i * d.sw) * pixel;
        const int oy = (oy0 + y) * d.step_y + d.at_y, ox = (ox0 + i) * d.step_x + d.at_x;
        s.places[n] = {slot * out.h + oy, ox};
        s.offsets[n] = y < real_y && i < real_x && open(oy0 + y, ox0 + i)
                           ? (((int64_t)slot * out.h + oy) * out.w + ox) * out.pitch
                           : -1;
        s.block_of[n] = blocks[q];
      }
  }
  return n;
}

// Accumulators of one chunk to outputs, n of the list.
void Plan::finish_chunk(Conv &c, int chunk, int n, Scratch &s) {
  const SkpConv &d = c.d;
  Map &out = maps[d.out];
  const Chunk &k = c.chunks[chunk];
  if (c.measures && d.scale_of_output)
    for (int i = 0; i < n; i++) {
      if (s.offsets[i] < 0 || !dense_[s.block_of[i] / c.run.blocks]) continue;
      float sum;
      kernels->of[0].power(s.acc.data() + (int64_t)i * kChunk, nullptr, nullptr, 1, kChunk,
                           std::min(k.width, out.c - k.first), 1, &sum);
      c.sums[(int64_t)s.block_of[i] * c.chunks.size() + chunk] += sum;
    }
  const size_t at = k.first * element_size;
  Epilogue e = {};
  e.acc = s.acc.data();
  e.offset = s.offsets.data();
  e.n = n;
  e.width = k.width;
  e.bias = c.bias + k.first;
  e.z_float = c.z_float;
  if (c.z)
    e.z = c.z + (c.z_float ? k.first * sizeof(float) : at);
  else if (d.previous)
    e.z = out.data + at;
  e.add_z = d.previous ? s.add.data() : nullptr;
  e.y = out.data + at;
  e.before = out.before ? out.before + at : nullptr;
  e.scale = c.scale_o ? c.scale_o + k.first : nullptr;
  e.shift = c.shift_o ? c.shift_o + k.first : nullptr;
  e.nskip = d.nskip;
  for (int i = 0; i < d.nskip; i++) e.skip[i] = maps[d.skip[i]].data + at;
  e.act = {d.act, d.act_a, d.act_b};
  e.changed = s.flags.data();
  e.moved = out.moved ? s.moved.data() : nullptr;
  typed->epilogue(e);
}

// What finish_chunk will read of some outputs, while the GEMM runs. A few at a time: a core keeps
// track of some tens of cache lines that are on their way, and forgets the others.
void Plan::fetch_chunk(const Conv &c, int chunk, int from, int to, const Scratch &s) const {
  const SkpConv &d = c.d;
  const Map &out = maps[d.out];
  const Chunk &k = c.chunks[chunk];
  const int64_t bytes = k.width * element_size;
  for (int i = from; i < to; i++) {
    const int64_t at = s.offsets[i] + k.first;
    if (s.offsets[i] < 0) continue;
    fetch(out.data + at * element_size, bytes);
    if (c.z) {
      const int64_t each = c.z_float ? sizeof(float) : element_size;
      fetch(c.z + at * each, k.width * each);
    }
    for (int q = 0; q < d.nskip; q++) fetch(maps[d.skip[q]].data + at * element_size, bytes);
  }
}

// Of the chunks [c0, c1), which this thread has computed.
void Plan::mark_changed(Conv &c, int n, int c0, int c1, Scratch &s) {
  Map &out = maps[c.d.out];
  for (int i = 0; i < n; i++) {
    if (s.offsets[i] < 0 || (!s.flags[i] && !out.moved)) continue;
    const auto [row, x] = s.places[i];
    if (s.flags[i]) out.mark(row, x);
    if (!out.moved) continue;
    float *moved = out.moved + ((int64_t)row * out.w + x) * out.planes;
    moved[c0] = s.moved[i];
    for (int k = c0 + 1; k < c1; k++) moved[k] = 0;
  }
}

// Sums over taps and channels of one chunk: s.pixels to s.acc.
void Plan::direct_chunk(const Conv &c, int chunk, const int *taps, int n, const char *ahead,
                        int lines, Scratch &s) const {
  const Chunk &k = c.chunks[chunk];
  const char *w = chunk_weight(c, chunk);
  for (int p = 0; p < n; p += kernels->group) {
    const int count = std::min(kernels->group, n - p);
    const void *const *px = s.pixels.data() + p;
    float *acc = s.acc.data() + (int64_t)p * kChunk;
    fetch_chunk(c, chunk, p, p + count, s);
    if (c.pairs)
      kernels->gemm_pairs(px, count, taps, c.taps, k.channels / 2, (const bf16 *)w, k.width, acc,
                          ahead, lines);
    else
      kernels->gemm(px, count, taps, c.taps, k.channels, (const float *)w, k.width, acc, ahead,
                    lines);
    ahead += (int64_t)c.taps * (k.channels / (c.pairs ? 8 : 4)) * 64 * lines;
  }
}

void Plan::conv_blocks(Conv &c, int from, int to, int c0, int c1, Scratch &s) {
  const SkpConv &d = c.d;
  const Grid &g = c.run;
  const Map &x = maps[d.in];
  const int64_t bytes = c.half_patch ? sizeof(bf16) : sizeof(float);
  int taps[2][SKP_MOST_TAPS];                   // in a patch, in the map
  for (int t = 0; t < c.taps; t++) {
    taps[0][t] = ((t / d.kw) * d.dh * g.patch_w + (t % d.kw) * d.dw) * x.pitch;
    taps[1][t] = ((t / d.kw) * d.dh * x.w + (t % d.kw) * d.dw) * x.pitch;
  }
  const void *patches[2 * kPixels];
  int widths[2 * kPixels];
  for (int i = from; i < to; i += c.batch) {
    const int count = std::min(c.batch, to - i);
    bool inside = true;
    for (int q = 0; q < count; q++) {
      patches[q] = in_place(c, g, c.running[i + q]);
      inside &= patches[q] != nullptr;
    }
    for (int q = 0; q < count; q++) {
      const int32_t block = c.running[i + q];
      const bool lies = patches[q] && (inside || c.winograd);  // a GEMM has the same taps for all
      widths[q] = lies ? x.w : g.patch_w;
      const void *kept = patches[q];
      if (!lies) {
        char *patch = (char *)s.patch.data() + q * g.patch * bytes;
        if (c.half_patch || (!half && !d.previous)) {
          gather(c, g, block, patch);
          kept = patch;
        } else {
          if (c.held && c0 == 0) gather(c, g, block, s.half_patch.data());
          gather_float(c, g, block, (float *)patch);
          kept = s.half_patch.data();
        }
        patches[q] = patch;
      }
      if (c.held && c0 == 0) hold_open(c, block, kept, widths[q]);
    }
    const int n = list_outputs(c, g, c.running + i, count, patches, widths[0], s);
    memset(s.flags.data(), 0, n);
    if (maps[d.out].moved) memset(s.moved.data(), 0, sizeof(float) * n);
    if (d.previous)
      for (int p = 0; p < n; p++) s.add[p] = !dense_[s.block_of[p] / g.blocks];
    int shifted = 0;
    for (int k = c0; k < c1; k++) {
      const Chunk &chunk = c.chunks[k];
      if (chunk.in != shifted) {
        for (int p = 0; p < n; p++)
          s.pixels[p] = (const char *)s.pixels[p] + (chunk.in - shifted) * bytes;
        shifted = chunk.in;
      }
      const char *w = chunk_weight(c, k);
      if (c.depthwise) {
        kernels->depthwise(s.pixels.data(), n, taps[inside], c.taps, (const float *)w, chunk.width,
                           s.acc.data());
      } else {
        const int64_t each = c.pairs ? sizeof(bf16) : sizeof(float);
        const int64_t size = c.products * each * chunk.channels * chunk.width;
        const char *next = c.next ? chunk_weight(*c.next, c0) : nullptr;
        const int rows = c.winograd ? n / (c.winograd * c.winograd) : n;
        const Ahead ahead =
            fetch_ahead(k, c1, i + c.batch >= to, (rows + 7) / 8, 8, 8, size, w, next);
        if (c.winograd)
          winograd_chunk(c, k, patches, widths, count, k > c0, ahead.at, ahead.lines, s);
        else
          direct_chunk(c, k, taps[inside], n, ahead.at, ahead.lines, s);
      }
      finish_chunk(c, k, n, s);
    }
    mark_changed(c, n, c0, c1, s);
  }
}

// The blocks' input as rows for the tiles, one matrix for each tap; rows go line by line of all
// blocks (y, block, x). At stride 1 the taps of a column share theirs. Returns the rows' number.
int Plan::amx_rows(const Conv &c, const int32_t *blocks, int count, bool keep, const bf16 **taps,
                    Scratch &s) {
  const SkpConv &d = c.d;
  const Map &x = maps[d.in], &out = maps[d.out];
  const int columns = count * d.block_w, n = columns * d.block_h, padded = (n + 31) / 32 * 32;
  const bool shared = !c.im2col && d.sh == 1 && d.sw == 1 && d.dh == 1 && d.dw == 1;
  const int pitch = c.im2col ? c.k32 * 32 : x.pitch;
  const int64_t step = shared ? (int64_t)((d.kh - 1) * columns + padded) * pitch
                              : (int64_t)padded * pitch;
  bf16 *rows = s.rows.data();
  for (int t = 0; t < c.taps; t++)
    taps[t] = shared ? rows + (t % d.kw) * step + (int64_t)(t / d.kw) * columns * pitch
                     : rows + (c.im2col ? 0 : t) * step;
  const int lines = shared ? d.block_h + d.kh - 1 : d.block_h;
  for (int q = 0; q < count; q++) {
    const bf16 *patch = s.half_patch.data();
    gather(c, c, blocks[q], s.half_patch.data());
    if (keep) hold(c, blocks[q], patch, c.patch_w);
    if (shared) {
      for (int kx = 0; kx < d.kw; kx++)
        for (int y = 0; y < lines; y++)
          memcpy(rows + kx * step + ((int64_t)y * columns + q * d.block_w) * pitch,
                 patch + ((int64_t)y * c.patch_w + kx) * pitch, sizeof(bf16) * d.block_w * pitch);
    } else {
      for (int t = 0; t < c.taps; t++)
        for (int y = 0; y < lines; y++)
          for (int i = 0; i < d.block_w; i++) {
            const bf16 *from = patch + ((int64_t)(y * d.sh + t / d.kw * d.dh) * c.patch_w +
                                        i * d.sw + t % d.kw * d.dw) * x.pitch;
            const int64_t row = (int64_t)y * columns + q * d.block_w + i;
            if (c.im2col && t == 0)
              memset(rows + row * pitch, 0, sizeof(bf16) * pitch);
            if (c.im2col)
              memcpy(rows + row * pitch + t * x.c, from, sizeof(bf16) * x.c);
            else
              memcpy(rows + t * step + row * pitch, from, sizeof(bf16) * pitch);
          }
    }
    const int slot = blocks[q] / c.blocks, block = blocks[q] % c.blocks;
    const int oy0 = block / c.blocks_x * d.block_h, ox0 = block % c.blocks_x * d.block_w;
    for (int y = 0; y < d.block_h; y++)
      for (int i = 0; i < d.block_w; i++) {
        const int row = y * columns + q * d.block_w + i;
        const bool exists = oy0 + y < d.oh && ox0 + i < d.ow;
        const int oy = (oy0 + y) * d.step_y + d.at_y, ox = (ox0 + i) * d.step_x + d.at_x;
        s.places[row] = {slot * out.h + oy, ox};
        s.offsets[row] = exists ? (((int64_t)slot * out.h + oy) * out.w + ox) * out.pitch : -1;
        s.block_of[row] = blocks[q];
      }
  }
  return n;
}

void Plan::conv_amx(Conv &c, int from, int to, int c0, int c1, Scratch &s) {
  const SkpConv &d = c.d;
  const bf16 *taps[SKP_MOST_TAPS];
  for (int i = from; i < to; i += c.batch) {
    const int n = amx_rows(c, c.open + i, std::min(c.batch, to - i), c.held && c0 == 0, taps, s);
    memset(s.flags.data(), 0, n);
    if (maps[d.out].moved) memset(s.moved.data(), 0, sizeof(float) * n);
    for (int k = c0; k < c1; k++) {
      TileGemm g;
      g.taps = taps;
      g.ntaps = c.im2col ? 1 : c.taps;
      g.n = n;
      g.k32 = c.k32;
      g.pitch = c.im2col ? c.k32 * 32 : maps[d.in].pitch;
      g.w = (const bf16 *)chunk_weight(c, k);
      g.acc = s.acc.data();
      const int64_t bytes = (int64_t)g.ntaps * c.k32 * 1024 * sizeof(bf16);
      const char *next = c.next ? chunk_weight(*c.next, c0) : nullptr;
      const Ahead ahead = fetch_ahead(k, c1, i + c.batch >= to, (n + 31) / 32, 4, 32, bytes,
                                      (const char *)g.w, next);
      g.ahead = ahead.at;
      g.lines = ahead.lines;
      tile_gemm(g);
      finish_chunk(c, k, n, s);
    }
    mark_changed(c, n, c0, c1, s);
  }
}

}  // namespace skp
