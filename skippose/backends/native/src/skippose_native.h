// The engine's plain C interface. Descriptions go in once, frames go through skp_run.
//
// Maps are NHWC, one after another for S slots. A pixel's channels lie `pitch` elements apart
// from the next pixel's; channels between C and pitch are padding that nothing reads.
#ifndef SKIPPOSE_NATIVE_H
#define SKIPPOSE_NATIVE_H
#include <stdint.h>

#define SKP_API extern "C" __attribute__((visibility("default")))

enum SkpIsa { SKP_PORTABLE = 0, SKP_AVX2 = 1, SKP_AVX512 = 2, SKP_AVX512BF16 = 3,
              SKP_AMX = 4 };
enum SkpGate { SKP_NO_GATE = 0, SKP_INPUT_NORM = 1, SKP_OUTPUT = 2, SKP_LINEAR = 3 };
enum SkpAct {
  SKP_IDENTITY = 0, SKP_RELU = 1, SKP_CLAMP = 2, SKP_LEAKY = 3, SKP_SIGMOID = 4, SKP_SILU = 5,
  SKP_HARD_SIGMOID = 6, SKP_HARD_SWISH = 7, SKP_TANH = 8,
};
enum SkpKind { SKP_SUM = 0, SKP_MUL = 1, SKP_MAX_POOL = 2, SKP_AVG_POOL = 3, SKP_CONCAT = 4,
               SKP_RESIZE = 5, SKP_FLATTEN = 6 };

struct SkpConv {
  int32_t in, out, nskip, skip[4];              // maps
  int32_t kh, kw, sh, sw, top, left, dh, dw, groups;
  int32_t oh, ow;                               // outputs; output (y, x) is the pixel
  int32_t step_y, step_x, at_y, at_x;           // (y * step_y + at_y, ...) of the out map
  int32_t block_h, block_w;                     // outputs per decision
  int32_t gate, previous, frame_source;         // SkpGate; reference; what the gate looks at
  int32_t p, normalize, relative, rectify;      // p: 1, 2, or 0 for infinity
  int32_t scale_of_output;                      // relative to |w*x|, else to |x|
  int32_t act, level, decides_cut;
  float act_a, act_b;
  float eps, magnitude, gain, gate_bias;        // magnitude 0: that of the last dense frame
  const float *weight, *bias;                   // (O, C/groups, kh, kw), (O)
  const float *scale, *shift;                   // (O) after the bias and before the skips; or null
  const float *phi;                             // (C, kh, kw) of a linear gate, or null
};

struct SkpElement {
  int32_t kind, out, nsrc, act, level;
  int32_t src[8];
  int32_t factor_y[8], factor_x[8];             // a sum's sources, repeated
  int32_t kh, kw, sh, sw, top, left, dh, dw;    // pools
  int32_t count_padding, divisor;               // average pool; divisor 0: the window
  float act_a, act_b;
  const float *scale, *shift;                   // (C) of a single source, or null
  const int32_t *first_y, *second_y, *first_x, *second_x;  // resize: two rows and columns ...
  const float *share_y, *share_x;                          // ... and the second one's share
};

enum SkpSlot { SKP_LIVE = 0, SKP_DENSE = 1, SKP_CUT = 2 };  // how a slot's frame is computed
enum SkpStatus { SKP_DONE = 0, SKP_NOT_FINITE = 1, SKP_NO_MEMORY = 2, SKP_FORKED = 3 };
enum { SKP_MOST_TAPS = 512 };                   // of a convolution

SKP_API int skp_version(void);
SKP_API int skp_best_isa(void);                 // of this CPU and this build
SKP_API int skp_has_isa(int isa);
SKP_API void *skp_new(int slots, int isa, int bf16, int threads);
SKP_API void skp_free(void *plan);
// keep_before: some convolution reads its change; added: some convolution adds it to its output.
SKP_API int skp_add_map(void *plan, int h, int w, int c, int keep_before, int added);
// Indices among convolutions and elements; -1 without memory, or with too many taps.
SKP_API int skp_add_conv(void *plan, const SkpConv *conv);
SKP_API int skp_add_element(void *plan, const SkpElement *element);
SKP_API int skp_finish(void *plan);             // 0, or -1 when memory ran out; map 0 is the frame

// One frame: (S, C, H, W) float32. dense: (S) SkpSlot; live ones are set to SKP_CUT where a cut was
// found. outputs: n maps, each written as (S, C, H, W) float32.
// Returns an SkpStatus. Nothing has changed where there is NaN or Inf in the frame, no memory, or
// the process was forked after skp_new with more than one thread.
SKP_API int skp_run(void *plan, const float *frame, uint8_t *dense, float cut, int n,
                    const int32_t *maps, float *const *outputs);

// Masks from outside: (S, Hb, Wb) bytes for one convolution, copied; null returns to the gate.
SKP_API void skp_set_mask(void *plan, int conv, const uint8_t *mask);

// What is inside, for reports, state dictionaries and tests. Pointers stay valid.
struct SkpBuffer { void *data; int64_t bytes; };
enum SkpBufferKind { SKP_Z = 0, SKP_HELD = 1, SKP_POWER = 2, SKP_LINEAR_HELD = 3, SKP_SCALE = 4,
                     SKP_OPEN = 5 };   // of a z without a buffer, the output map holds it
SKP_API struct SkpBuffer skp_conv_buffer(void *plan, int conv, int kind);
SKP_API struct SkpBuffer skp_map_buffer(void *plan, int map, int before);
SKP_API struct SkpBuffer skp_last_frame(void *plan);  // (S, C, H, W) float32
SKP_API void skp_begin(void *plan);     // what was written into the buffers is a state to go on from
SKP_API int skp_map_pitch(void *plan, int map);
SKP_API const int64_t *skp_counts(void *plan);  // (convs, S, 2) outputs computed, outputs looked at
SKP_API int64_t skp_state_bytes(void *plan);
SKP_API int64_t skp_weight_bytes(void *plan);
#endif
