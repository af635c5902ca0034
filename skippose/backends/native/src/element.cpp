// Everything between convolutions: which rows run, and the table of kinds.
#include "element.h"

namespace skp {

#define SKP_KIND(c_name, name, value) extern const ElementKind element_##name;
#include "interface.def"

namespace {

const ElementKind *const kKinds[] = {
#define SKP_KIND(c_name, name, value) &element_##name,
#include "interface.def"
};
constexpr int kNumbers[] = {
#define SKP_KIND(c_name, name, value) value,
#include "interface.def"
};
constexpr int kCount = sizeof(kNumbers) / sizeof(kNumbers[0]);

constexpr bool ascend() {
  for (int i = 0; i < kCount; i++)
    if (kNumbers[i] != i) return false;
  return true;
}
static_assert(ascend(), "kinds are numbered from 0 in the order of interface.def");

}  // namespace

bool is_element_kind(int kind) { return kind >= 0 && kind < kCount; }
const ElementKind &element_kind(int kind) { return *kKinds[kind]; }

void Plan::element_rows(Element &e, int from, int to, Scratch &s) {
  const ElementKind &kind = element_kind(e.d.kind);
  const int rows = maps[e.d.out].h;
  for (int row = from; row < to; row++) {
    const int slot = row / rows;
    const bool everywhere = dense_[slot] != 0;
    if (everywhere || kind.reads_change(*this, e, slot, row % rows))
      kind.compute(*this, e, row, everywhere, s);
  }
}

}  // namespace skp
