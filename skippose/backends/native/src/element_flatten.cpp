// (h, w, c) to channels of one pixel, c outermost.
#include <string.h>

#include "element.h"

namespace skp {

static bool reads_change(const Plan &plan, const Element &e, int slot, int) {
  const Map &m = plan.maps[e.d.src[0]];
  return rows_changed(m, slot, 0, m.h);
}

static void compute(Plan &plan, const Element &e, int row, bool, Scratch &) {
  const Map &m = plan.maps[e.d.src[0]];
  Map &out = plan.maps[e.d.out];                // of one row and one column: its row is its slot
  const size_t size = plan.element_size, at = (size_t)row * out.pitch * size;
  bool changed = false;
  for (int c = 0; c < m.c; c++)
    for (int y = 0; y < m.h; y++)
      for (int x = 0; x < m.w; x++) {
        const char *source = m.data + (pixel_of(m, row, y, x) * m.pitch + c) * size;
        const size_t to = at + (((size_t)c * m.h + y) * m.w + x) * size;
        changed |= memcmp(out.data + to, source, size) != 0;
        if (out.before) memcpy(out.before + to, out.data + to, size);
        memcpy(out.data + to, source, size);
      }
  if (changed) out.mark(row, 0);
}

extern const ElementKind element_flatten = {false, reads_change, compute};

}  // namespace skp
