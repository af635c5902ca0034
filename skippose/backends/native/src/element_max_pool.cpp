// Maxima over windows; padding is no value.
#include "element_pool.h"

namespace skp {

static void compute(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s) {
  const int y = row % plan.maps[e.d.out].h;
  each_pixel(
      plan, e, row, everywhere, s,
      [&](Sources &sources, int x) { take_window(plan, e.d, sources, y, x); },
      [&](const Pixel &p, const Sources &, int) { return plan.typed->max(p); });
}

extern const ElementKind element_max_pool = {false, pool_reads_change, compute};

}  // namespace skp
