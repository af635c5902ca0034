// Means over windows.
#include "element_pool.h"

namespace skp {

static void compute(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s) {
  const SkpElement &d = e.d;
  const int y = row % plan.maps[d.out].h;
  int padded = 0;
  each_pixel(
      plan, e, row, everywhere, s,
      [&](Sources &sources, int x) { padded = take_window(plan, d, sources, y, x); },
      [&](Pixel &p, const Sources &sources, int) {
        const int count = d.divisor ? d.divisor : d.count_padding ? padded : p.nsrc;
        std::fill(sources.coefs(), sources.coefs() + p.nsrc, 1.0f / count);
        p.coef = sources.coefs();
        return plan.typed->sum(p);
      });
}

extern const ElementKind element_avg_pool = {true, pool_reads_change, compute};

}  // namespace skp
