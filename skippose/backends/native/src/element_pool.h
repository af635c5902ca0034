// Windows of one map.
#pragma once
#include "element.h"

namespace skp {

inline bool pool_reads_change(const Plan &plan, const Element &e, int slot, int y) {
  const int begin = y * e.d.sh - e.d.top;
  return rows_changed(plan.maps[e.d.src[0]], slot, begin, begin + (e.d.kh - 1) * e.d.dh + 1);
}

// Takes the pixels of a window that exist, and returns how many lie in the padded map.
inline int take_window(const Plan &plan, const SkpElement &d, Sources &sources, int y, int x) {
  const Map &m = plan.maps[d.src[0]];
  int padded = 0;
  for (int ky = 0; ky < d.kh; ky++)
    for (int kx = 0; kx < d.kw; kx++) {
      const int iy = y * d.sh - d.top + ky * d.dh, ix = x * d.sw - d.left + kx * d.dw;
      padded += iy < m.h + d.top && ix < m.w + d.left;
      if (iy >= 0 && ix >= 0 && iy < m.h && ix < m.w) sources.take(m, iy, ix);
    }
  return padded;
}

}  // namespace skp
