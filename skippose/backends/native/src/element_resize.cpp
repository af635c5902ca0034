// A weighted mean of two rows and two columns.
#include "element.h"

namespace skp {

static bool reads_change(const Plan &plan, const Element &e, int slot, int y) {
  const Map &m = plan.maps[e.d.src[0]];
  return rows_changed(m, slot, e.first_y[y], e.first_y[y] + 1) ||
         rows_changed(m, slot, e.second_y[y], e.second_y[y] + 1);
}

static void compute(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s) {
  const Map &m = plan.maps[e.d.src[0]];
  const int y = row % plan.maps[e.d.out].h;
  const float v = e.share_y[y];
  each_pixel(
      plan, e, row, everywhere, s,
      [&](Sources &sources, int x) {
        const float u = e.share_x[x];
        sources.take(m, e.first_y[y], e.first_x[x], (1 - v) * (1 - u));
        if (u != 0) sources.take(m, e.first_y[y], e.second_x[x], (1 - v) * u);
        if (v != 0) sources.take(m, e.second_y[y], e.first_x[x], v * (1 - u));
        if (v != 0 && u != 0) sources.take(m, e.second_y[y], e.second_x[x], v * u);
      },
      [&](Pixel &p, const Sources &sources, int) {
        if (p.nsrc > 1) p.coef = sources.coefs();
        return plan.typed->sum(p);
      });
}

extern const ElementKind element_resize = {true, reads_change, compute};

}  // namespace skp
