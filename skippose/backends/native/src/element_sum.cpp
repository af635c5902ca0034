// Sums of maps, each repeated by whole numbers; of one map, a scale, a shift or an activation alone.
#include "element_pixelwise.h"

namespace skp {

static void compute(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s) {
  pixelwise(plan, e, row, everywhere, s, plan.typed->sum);
}

extern const ElementKind element_sum = {true, pixelwise_reads_change, compute};

}  // namespace skp
