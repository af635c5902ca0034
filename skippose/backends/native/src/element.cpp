// Everything between convolutions, pixel by pixel where a source changed.
#include <string.h>

#include <algorithm>

#include "plan.h"

namespace skp {

void Plan::element_rows(Element &e, int from, int to, Scratch &s) {
  const SkpElement &d = e.d;
  Map &out = maps[d.out];
  const size_t size = element_size;
  const Map &first = maps[d.src[0]];
  const void **sources = s.sources.data();
  float *coefs = s.coefs.data();

  for (int r = from; r < to; r++) {
    const int slot = r / out.h, y = r % out.h;
    const bool forced = dense_[slot] != 0;
    // Rows of source i that this row reads: [begin, end), and whether any of them changed.
    auto row_changed = [&](const Map &m, int begin, int end) {
      for (int iy = std::max(0, begin); iy < std::min(end, m.h); iy++)
        if (m.rows[(int64_t)slot * m.h + iy]) return true;
      return false;
    };
    auto pixel_of = [&](const Map &m, int iy, int ix) {
      return ((int64_t)slot * m.h + iy) * m.w + ix;
    };
    bool any = forced;
    if (d.kind == SKP_MAX_POOL || d.kind == SKP_AVG_POOL) {
      const int iy0 = y * d.sh - d.top;
      any |= row_changed(first, iy0, iy0 + (d.kh - 1) * d.dh + 1);
    } else if (d.kind == SKP_RESIZE) {
      any |= row_changed(first, e.first_y[y], e.first_y[y] + 1) ||
             row_changed(first, e.second_y[y], e.second_y[y] + 1);
    } else if (d.kind == SKP_FLATTEN) {
      any |= row_changed(first, 0, first.h);
    } else {
      for (int i = 0; i < d.nsrc; i++) {
        const Map &m = maps[d.src[i]];
        const int iy = m.h == 1 ? 0 : y / d.factor_y[i];
        any |= row_changed(m, iy, iy + 1);
      }
    }
    if (!any) continue;

    for (int x = 0; x < out.w; x++) {
      const int64_t pixel = pixel_of(out, y, x), at = pixel * out.pitch * size;
      Pixel p = {};
      p.y = out.data + at;
      p.before = out.before ? out.before + at : nullptr;
      p.src = sources;
      p.channels = out.c;
      p.act = {d.act, d.act_a, d.act_b};
      p.scale = e.scale;
      p.shift = e.shift;
      p.moved = out.moved ? out.moved + pixel : nullptr;
      bool dirty = forced, changed = false;
      auto take = [&](const Map &m, int iy, int ix, float coef) {
        const int64_t q = pixel_of(m, iy, ix);
        dirty |= m.dirty[q] != 0;
        coefs[p.nsrc] = coef;
        sources[p.nsrc++] = m.data + q * m.pitch * size;
      };

      if (d.kind == SKP_MAX_POOL || d.kind == SKP_AVG_POOL) {
        int inside = 0;  // of the padded map, which is what means count with count_padding
        for (int ky = 0; ky < d.kh; ky++)
          for (int kx = 0; kx < d.kw; kx++) {
            const int iy = y * d.sh - d.top + ky * d.dh, ix = x * d.sw - d.left + kx * d.dw;
            inside += iy < first.h + d.top && ix < first.w + d.left;
            if (iy >= 0 && ix >= 0 && iy < first.h && ix < first.w) take(first, iy, ix, 1);
          }
        if (!dirty) continue;
        if (d.kind == SKP_MAX_POOL) {
          changed = typed->max(p);
        } else {
          const int count = d.divisor ? d.divisor : d.count_padding ? inside : p.nsrc;
          std::fill(coefs, coefs + p.nsrc, 1.0f / count);
          p.coef = coefs;
          changed = typed->sum(p);
        }
      } else if (d.kind == SKP_RESIZE) {
        const float v = e.share_y[y], u = e.share_x[x];
        take(first, e.first_y[y], e.first_x[x], (1 - v) * (1 - u));
        if (u != 0) take(first, e.first_y[y], e.second_x[x], (1 - v) * u);
        if (v != 0) take(first, e.second_y[y], e.first_x[x], v * (1 - u));
        if (v != 0 && u != 0) take(first, e.second_y[y], e.second_x[x], v * u);
        if (!dirty) continue;
        if (p.nsrc > 1) p.coef = coefs;
        changed = typed->sum(p);
      } else if (d.kind == SKP_CONCAT) {
        for (int i = 0; i < d.nsrc; i++) take(maps[d.src[i]], y, x, 1);
        if (!dirty) continue;
        int channel = 0;
        for (int i = 0; i < d.nsrc; i++) {
          Pixel part = p;
          part.y = (char *)p.y + channel * size;
          if (p.before) part.before = (char *)p.before + channel * size;
          part.src = sources + i;
          part.nsrc = 1;
          part.channels = maps[d.src[i]].c;
          changed |= typed->sum(part);
          channel += part.channels;
        }
      } else if (d.kind == SKP_FLATTEN) {
        // (h, w, c) to channels of one pixel, c outermost.
        for (int c = 0; c < first.c; c++)
          for (int iy = 0; iy < first.h; iy++)
            for (int ix = 0; ix < first.w; ix++) {
              const char *source = first.data + (pixel_of(first, iy, ix) * first.pitch + c) * size;
              const int64_t to_channel = ((int64_t)c * first.h + iy) * first.w + ix;
              char *target = (char *)p.y + to_channel * size;
              changed |= memcmp(target, source, size) != 0;
              if (p.before) memcpy((char *)p.before + to_channel * size, target, size);
              memcpy(target, source, size);
            }
      } else {
        for (int i = 0; i < d.nsrc; i++) {
          const Map &m = maps[d.src[i]];
          take(m, m.h == 1 ? 0 : y / d.factor_y[i], m.w == 1 ? 0 : x / d.factor_x[i], 1);
        }
        if (!dirty) continue;
        changed = d.kind == SKP_MUL ? typed->mul(p) : typed->sum(p);
      }
      if (changed) out.mark(r, x);
    }
  }
}

}  // namespace skp
