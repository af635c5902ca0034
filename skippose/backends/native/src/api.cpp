// The C interface, and what this CPU can run.
#include <new>

#include "plan.h"

using skp::Conv;
using skp::Plan;

namespace {

Plan *as_plan(void *p) { return (Plan *)p; }

}  // namespace

#ifndef SKP_INTERFACE
#error "SKP_INTERFACE is the number of the interface, which setup.py computes"
#endif
const uint64_t skp_interface = SKP_INTERFACE;

const int32_t skp_struct_bytes[] = {
#define SKP_STRUCT(name) (int32_t)sizeof(name),
#include "interface.def"
};

int skp_has_isa(int isa) {
  if (isa == SKP_PORTABLE) return 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (isa == SKP_AVX2)
    return skp::kernels_avx2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = skp::kernels_avx512() && __builtin_cpu_supports("avx512f") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512dq");
  if (isa == SKP_AVX512) return wide;
  const bool pairs = wide && skp::kernels_avx512bf16() && __builtin_cpu_supports("avx512bf16");
  if (isa == SKP_AVX512BF16) return pairs;
  if (isa == SKP_AMX && pairs && skp::amx_compiled()) {
    // AMX-TILE and AMX-BF16: leaf 7, EDX bits 24 and 22.
    unsigned a = 7, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (d >> 24 & 1) && (d >> 22 & 1) && skp::amx_permitted();
  }
#endif
  return 0;
}

int skp_best_isa(void) {
  for (int isa = SKP_AMX; isa > SKP_PORTABLE; isa--)
    if (skp_has_isa(isa)) return isa;
  return SKP_PORTABLE;
}

void *skp_new(int slots, int isa, int bf16, int threads) {
  if (!skp_has_isa(isa)) return nullptr;
  try {
    return new Plan(slots, isa, bf16 != 0, threads);
  } catch (const std::exception &) {
    return nullptr;
  }
}

void skp_free(void *plan) {
  // In a forked process its threads are not there to be joined: the memory is left to the system.
  if (!as_plan(plan)->forked()) delete as_plan(plan);
}

int skp_add_map(void *plan, int h, int w, int c, int keep_before, int added) {
  return as_plan(plan)->add_map(h, w, c, keep_before != 0, added != 0);
}

int skp_add_conv(void *plan, const SkpConv *conv) {
  try {
    return as_plan(plan)->add_conv(*conv);
  } catch (const std::bad_alloc &) {
    return -1;
  }
}

int skp_add_element(void *plan, const SkpElement *element) {
  try {
    return as_plan(plan)->add_element(*element);
  } catch (const std::bad_alloc &) {
    return -1;
  }
}

int skp_finish(void *plan) {
  try {
    as_plan(plan)->finish();
  } catch (const std::bad_alloc &) {
    return -1;
  }
  return 0;
}

int skp_run(void *plan, const float *frame, uint8_t *dense, float cut, int n, const int32_t *maps,
            float *const *outputs) {
  try {
    return as_plan(plan)->run(frame, dense, cut, n, maps, outputs);
  } catch (const std::bad_alloc &) {
    return SKP_NO_MEMORY;
  }
}

void skp_set_mask(void *plan, int conv, const uint8_t *mask) {
  as_plan(plan)->set_mask(conv, mask);
}

SkpBuffer skp_conv_buffer(void *plan, int conv, int kind) {
  Plan &p = *as_plan(plan);
  Conv &c = *p.convs[conv];
  const skp::Map &out = p.maps[c.d.out];
  const int64_t blocks = (int64_t)p.slots * c.blocks;
  switch (kind) {
    case SKP_Z:
      return {c.z, c.z ? (int64_t)p.slots * out.h * out.w * out.pitch * (c.z_float ? 4 : 2) : 0};
    case SKP_HELD: return {c.held, c.held ? blocks * c.patch * (int64_t)p.element_size : 0};
    case SKP_POWER: return {c.power, c.power ? blocks * c.patch_h * c.patch_w * 4 : 0};
    case SKP_LINEAR_HELD:
      return {c.linear, c.linear ? (int64_t)p.slots * c.d.oh * c.d.ow * 4 : 0};
    case SKP_SCALE: return {c.scale, p.slots * 4};
    case SKP_OPEN: return {c.open_map, blocks};
  }
  return {nullptr, 0};
}

SkpBuffer skp_map_buffer(void *plan, int map, int before) {
  Plan &p = *as_plan(plan);
  const skp::Map &m = p.maps[map];
  void *data = before ? m.before : m.data;
  return {data, data ? (int64_t)p.slots * m.h * m.w * m.pitch * (int64_t)p.element_size : 0};
}

SkpBuffer skp_last_frame(void *plan) {
  Plan &p = *as_plan(plan);
  const skp::Map &m = p.maps[0];
  return {p.last_frame(), (int64_t)p.slots * m.c * m.h * m.w * (int64_t)sizeof(float)};
}

void skp_begin(void *plan) { as_plan(plan)->begin(); }
int skp_map_pitch(void *plan, int map) { return as_plan(plan)->maps[map].pitch; }
const int64_t *skp_counts(void *plan) { return as_plan(plan)->counts.data(); }
int64_t skp_state_bytes(void *plan) { return (int64_t)as_plan(plan)->state.taken(); }
