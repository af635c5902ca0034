// Channels one after the other.
#include "element_pixelwise.h"

namespace skp {

static void compute(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s) {
  const SkpElement &d = e.d;
  const int y = row % plan.maps[d.out].h;
  each_pixel(
      plan, e, row, everywhere, s,
      [&](Sources &sources, int x) {
        for (int i = 0; i < d.nsrc; i++) sources.take(plan.maps[d.src[i]], y, x);
      },
      [&](const Pixel &p, const Sources &sources, int) {
        bool changed = false;
        size_t at = 0;
        for (int i = 0; i < d.nsrc; i++) {
          Pixel part = p;
          part.y = (char *)p.y + at;
          if (p.before) part.before = (char *)p.before + at;
          part.src = sources.at() + i;
          part.nsrc = 1;
          part.channels = plan.maps[d.src[i]].c;
          changed |= plan.typed->sum(part);
          at += part.channels * plan.element_size;
        }
        return changed;
      });
}

extern const ElementKind element_concat = {false, pixelwise_reads_change, compute};

}  // namespace skp
