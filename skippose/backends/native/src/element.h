// What lies between convolutions: one kind of operation a file, element_<name>.cpp, each of which
// defines the ElementKind element_<name>. SKP_KIND in interface.def numbers and registers it.
#pragma once
#include <algorithm>

#include "plan.h"

namespace skp {

struct ElementKind {
  // Whether a pixel says how far it moved, for gates with a bound: every pixel is one TypedKernels
  // call on a whole Pixel.
  bool measures;
  // Whether row y of a slot's output reads a row that changed in this frame.
  bool (*reads_change)(const Plan &plan, const Element &e, int slot, int y);
  // Computes row `row` of all slots' rows, where a source changed or everywhere, and marks what
  // changed.
  void (*compute)(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s);
};

const ElementKind &element_kind(int kind);      // of SkpKind
bool is_element_kind(int kind);

inline int64_t pixel_of(const Map &m, int slot, int y, int x) {
  return ((int64_t)slot * m.h + y) * m.w + x;
}

// Whether any of the rows [begin, end) of a slot changed; those outside of the map do not.
inline bool rows_changed(const Map &m, int slot, int begin, int end) {
  for (int y = std::max(0, begin); y < std::min(end, m.h); y++)
    if (m.rows[(int64_t)slot * m.h + y]) return true;
  return false;
}

// The pixels that one pixel of the output reads.
class Sources {
 public:
  Sources(const Plan &plan, int slot, Scratch &s)
      : at_(s.sources.data()), coefs_(s.coefs.data()), size_(plan.element_size), slot_(slot) {}
  void begin(bool dirty) {
    count = 0;
    dirty_ = dirty;
  }
  void take(const Map &m, int y, int x, float coef = 1) {
    const int64_t q = pixel_of(m, slot_, y, x);
    dirty_ |= m.dirty[q] != 0;
    coefs_[count] = coef;
    at_[count++] = m.data + q * m.pitch * size_;
  }
  bool dirty() const { return dirty_; }
  const void *const *at() const { return at_; }
  float *coefs() const { return coefs_; }

  int count = 0;

 private:
  const void **at_;
  float *coefs_;
  size_t size_;
  int slot_;
  bool dirty_ = false;
};

// A row, pixel by pixel: gather(sources, x) takes what pixel x reads, and where any of that changed
// compute(pixel, sources, x) writes it and returns whether it changed.
template <class Gather, class Compute>
inline void each_pixel(Plan &plan, const Element &e, int row, bool everywhere, Scratch &s,
                       Gather gather, Compute compute) {
  const SkpElement &d = e.d;
  Map &out = plan.maps[d.out];
  Sources sources(plan, row / out.h, s);
  for (int x = 0; x < out.w; x++) {
    sources.begin(everywhere);
    gather(sources, x);
    if (!sources.dirty()) continue;
    const int64_t pixel = (int64_t)row * out.w + x, at = pixel * out.pitch * plan.element_size;
    Pixel p = {};
    p.y = out.data + at;
    p.before = out.before ? out.before + at : nullptr;
    p.src = sources.at();
    p.nsrc = sources.count;
    p.channels = out.c;
    p.act = {d.act, d.act_a, d.act_b};
    p.scale = e.scale;
    p.shift = e.shift;
    p.moved = out.moved ? out.moved + pixel : nullptr;
    if (compute(p, sources, x)) out.mark(row, x);
  }
}

}  // namespace skp
