// Kinds of which a pixel reads one pixel of each source: sources are repeated by whole numbers, and
// those of one row or column are spread over all.
#pragma once
#include "element.h"

namespace skp {

inline bool pixelwise_reads_change(const Plan &plan, const Element &e, int slot, int y) {
  for (int i = 0; i < e.d.nsrc; i++) {
    const Map &m = plan.maps[e.d.src[i]];
    const int at = m.h == 1 ? 0 : y / e.d.factor_y[i];
    if (rows_changed(m, slot, at, at + 1)) return true;
  }
  return false;
}

inline void pixelwise(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s,
                      bool (*kernel)(const Pixel &)) {
  const SkpElement &d = e.d;
  const int y = row % plan.maps[d.out].h;
  each_pixel(
      plan, e, row, everywhere, s,
      [&](Sources &sources, int x) {
        for (int i = 0; i < d.nsrc; i++) {
          const Map &m = plan.maps[d.src[i]];
          sources.take(m, m.h == 1 ? 0 : y / d.factor_y[i], m.w == 1 ? 0 : x / d.factor_x[i]);
        }
      },
      [&](const Pixel &p, const Sources &, int) { return kernel(p); });
}

}  // namespace skp
