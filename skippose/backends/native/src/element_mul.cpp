// Products of maps, of which some may be one pixel.
#include "element_pixelwise.h"

namespace skp {

static void compute(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s) {
  pixelwise(plan, e, row, everywhere, s, plan.typed->mul);
}

extern const ElementKind element_mul = {false, pixelwise_reads_change, compute};

}  // namespace skp
