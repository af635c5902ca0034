// A plan in memory: maps, operations in levels, and what runs them.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels.h"
#include "skippose_native.h"

namespace skp {

// Zeroed memory that lives as long as the plan.
class Arena {
 public:
  ~Arena();
  void *take(size_t bytes);                     // throws std::bad_alloc
  template <class T>
  T *of(size_t n) {
    return (T *)take(n * sizeof(T));
  }
  size_t taken() const { return taken_; }

 private:
  std::vector<void *> blocks_;
  char *at_ = nullptr;
  size_t left_ = 0, taken_ = 0;
};

// Looks first: a line that is only read may stay in every core's cache.
inline void raise_flag(uint8_t *flag) {
  if (!__atomic_load_n(flag, __ATOMIC_RELAXED)) __atomic_store_n(flag, 1, __ATOMIC_RELAXED);
}

struct Map {
  int h, w, c, pitch;
  bool keep_before;
  char *data = nullptr, *before = nullptr;      // (S, h, w, pitch)
  uint8_t *dirty = nullptr, *rows = nullptr;    // (S, h, w), (S, h): changed in this frame
  uint8_t any = 0;
  float *moved = nullptr;                       // (S, h, w, planes): sum of |new - old| where dirty
  int planes = 1;                               // of moved: one for each chunk that is written
  std::vector<float> written;                   // (S, c, h, w), of maps that a caller reads
  bool stale = true;                            // written is not what the map was a frame ago

  void mark(int64_t row, int x) {
    raise_flag(dirty + row * w + x);
    raise_flag(rows + row);
    raise_flag(&any);
  }
};

// kChunk output channels and the input channels that they read.
struct Chunk {
  int first, width;                             // output channels
  int in, channels;                             // input channels
  int64_t weight, half_weight;                  // where its weights begin
};

// Outputs in blocks, and the input of each.
struct Grid {
  int block_h, block_w;
  int blocks_y, blocks_x, blocks;               // blocks: of one slot
  int patch_h, patch_w;                         // input of a block, halo included
  int64_t patch;                                // elements of it
  int oh, ow, sh, sw, top, left;

  Grid() = default;
  Grid(const SkpConv &d, int pitch, int block_h, int block_w)
      : block_h(block_h), block_w(block_w), blocks_y((d.oh + block_h - 1) / block_h),
        blocks_x((d.ow + block_w - 1) / block_w), blocks(blocks_y * blocks_x),
        patch_h((block_h - 1) * d.sh + (d.kh - 1) * d.dh + 1),
        patch_w((block_w - 1) * d.sw + (d.kw - 1) * d.dw + 1),
        patch((int64_t)patch_h * patch_w * pitch), oh(d.oh), ow(d.ow), sh(d.sh), sw(d.sw),
        top(d.top), left(d.left) {}

  struct Block {                                // the outputs of one that exist
    int y0, y1, x0, x1;
  };
  Block outputs_of(int by, int bx) const {
    return {by * block_h, std::min((by + 1) * block_h, oh), bx * block_w,
            std::min((bx + 1) * block_w, ow)};
  }
  struct Corner {
    int slot, y, x;
  };
  Corner corner(int slot, int by, int bx) const {  // of a block's input, halo included
    return {slot, by * block_h * sh - top, bx * block_w * sw - left};
  }
  Corner corner(int64_t block) const {
    const int at = block % blocks;
    return corner((int)(block / blocks), at / blocks_x, at % blocks_x);
  }
};

struct Conv : Grid {                            // of its gate
  SkpConv d;
  Grid run;                                     // of what runs together: one of the gate's or some
  int taps, products;                           // products: weights of two channels as packed
  int winograd;                                 // side of its tiles, or 0
  int batch;                                    // blocks of `run` in one GEMM
  bool holes, depthwise, amx, pairs, half_patch, im2col, needs_z, z_float, keeps_held;
  bool measures, looks;
  bool bounded = false;                         // its gate reads how far its input moved
  // What closed its blocks was not its gate: the next time, that looks at all of them anew.
  bool unsure = false;
  std::vector<Chunk> chunks;
  float *weight = nullptr, *bias = nullptr, *scale_o = nullptr, *shift_o = nullptr, *phi = nullptr;
  bf16 *half_weight = nullptr;                  // of AMX or pairs
  int k32 = 0;                                  // of AMX: input channels / 32
  const Conv *next = nullptr;                   // whose weights are fetched ahead

  char *z = nullptr;                            // (S, out map) or null: the output map itself
  char *held = nullptr;                         // (S, blocks, patch)
  float *power = nullptr;                       // (S, blocks, patch pixels) of x - held, of norms
  float *linear = nullptr;                      // (S, oh, ow) phi * x where last computed, or null
  float *scale = nullptr;                       // (S)
  uint8_t *open_map = nullptr;                  // (S, blocks)
  uint8_t *mask = nullptr;                      // alike, from outside; used if masked
  bool masked = false;
  int32_t *open_rows = nullptr, *open = nullptr, *row_count = nullptr;
  int nopen = 0;
  int32_t *running = nullptr;                   // blocks of `run` of which any is open
  int nrunning = 0;
  double *sums = nullptr;                       // (S, blocks) |x|, or (S, blocks, chunks) |w*x|
  int64_t *looked = nullptr;                    // (S, blocks_y)
  int64_t *counts = nullptr;                    // (S, 2)
  int64_t macs_per_output = 0;
  bool active = false;                          // its gate runs in this frame
};

struct Element {
  SkpElement d;
  std::vector<int32_t> first_y, second_y, first_x, second_x;
  std::vector<float> share_y, share_x;
  float *scale = nullptr, *shift = nullptr;
  int window = 0;
};

struct Step {                                   // one operation in a level
  bool is_conv;
  int index;
};

struct Task {
  enum Kind { kFrameRow, kGate, kElement, kConv } kind;
  int index, from, to, c0, c1;
};

struct Scratch {                                // one for each thread
  std::vector<float> patch, power, columns, moved, acc, transformed, products;
  std::vector<bf16> rows, half_patch;
  std::vector<int32_t> block_of;                // output of the list -> its block
  std::vector<int32_t> above;                   // see Plan::bound
  std::vector<const void *> pixels, rows_of;
  std::vector<int64_t> offsets;
  struct At {
    int32_t row, x;
  };
  std::vector<At> places;                       // output of the list -> its row of the map, column
  std::vector<uint8_t> flags, add, wanted;
  std::vector<const void *> sources;
  std::vector<float> coefs;
};

void winograd_weights(int tile, const float *w, float *out, int64_t plane);

class Plan {
 public:
  Plan(int slots, int isa, bool half, int threads);
  ~Plan();

  // build.cpp
  int add_map(int h, int w, int c, bool keep_before, bool added);
  int add_conv(const SkpConv &conv);
  int add_element(const SkpElement &element);
  void finish();

  // run.cpp
  int run(const float *frame, uint8_t *dense, float cut, int n, const int32_t *maps,
          float *const *outputs);
  float *last_frame() { return last_frame_; }
  void begin();
  void set_mask(int conv, const uint8_t *mask);
  bool forked() const { return !pool_.empty() && getpid() != pid_; }

  int slots;
  bool half;
  size_t element_size;
  const Kernels *kernels;
  const TypedKernels *typed;
  bool amx;
  std::vector<Map> maps;
  std::vector<std::unique_ptr<Conv>> convs;
  std::vector<std::unique_ptr<Element>> elements;
  std::vector<int64_t> counts;
  Arena state, weights, work;

 private:
  void pack(Conv &c);
  void allocate(Conv &c);
  void allocate_moved();

  // gate.cpp: which blocks run
  void gate_rows(Conv &c, int from, int to, Scratch &s);
  bool decide(Conv &c, int slot, int by, int bx, Scratch &s);
  bool decide_linear(Conv &c, int slot, int by, int bx);
  bool decide_output(Conv &c, int slot, int by, int bx, Scratch &s);
  void hold_block(Conv &c, int slot, int by, int bx);
  void add_skips(Conv &c, int slot, int by, int bx, Scratch &s);
  float linear_at(const Conv &c, int slot, int oy, int ox, bool change);
  float linear_since_held(const Conv &c, int slot, int by, int bx, int oy, int ox) const;

  // norm_gate.cpp
  struct Look;
  bool above(const Conv &c, const Look &at, const float *power, int row_out, Scratch &s) const;
  void measure_row(const Conv &c, const Look &at, int r, const uint8_t *where, float *power) const;
  int bound(Conv &c, int slot, int by, int bx, Scratch &s);
  bool decide_bounded(Conv &c, int slot, int by, int bx, int row_out, Scratch &s);
  bool decide_norm(Conv &c, int slot, int by, int bx, Scratch &s);

  // conv.cpp: running them
  void conv_blocks(Conv &c, int from, int to, int c0, int c1, Scratch &s);
  void conv_amx(Conv &c, int from, int to, int c0, int c1, Scratch &s);
  const void *in_place(const Conv &c, const Grid &g, int64_t block) const;
  void hold(const Conv &c, int64_t block, const void *patch, int width) const;
  void hold_open(const Conv &c, int64_t block, const void *patch, int width) const;
  void gather(const Conv &c, const Grid &g, int64_t block, void *patch) const;
  void gather_float(const Conv &c, const Grid &g, int64_t block, float *patch) const;
  int amx_rows(const Conv &c, const int32_t *blocks, int count, bool keep, const bf16 **taps,
                Scratch &s);
  int list_outputs(const Conv &c, const Grid &g, const int32_t *blocks, int count,
                   const void *const *patches, int width, Scratch &s) const;
  void finish_chunk(Conv &c, int chunk, int n, Scratch &s);
  void fetch_chunk(const Conv &c, int chunk, int from, int to, const Scratch &s) const;
  void direct_chunk(const Conv &c, int chunk, const int *taps, int n, const char *ahead, int lines,
                    Scratch &s) const;
  void mark_changed(Conv &c, int n, int c0, int c1, Scratch &s);

  // winograd.cpp
  int winograd_side(const Conv &c) const;
  void winograd_chunk(const Conv &c, int chunk, const void *const *patches, const int *widths,
                      int count, bool again, const char *ahead, int lines, Scratch &s) const;

  // element.cpp
  void element_rows(Element &e, int from, int to, Scratch &s);

  // run.cpp: a frame, phase by phase
  bool compare_frame(const float *frame);
  void frame_row(int row, uint8_t *changed);
  void run_task(const Task &task, int thread);
  bool next_phase();
  void plan_gates();
  void plan_cut();
  void plan_convs();
  void finish_gates();
  void list_open(Conv &c);
  void list_running(Conv &c);
  void measure(Conv &c);
  void add_tasks(const Task &task, int pieces, bool by_chunk);
  void share_tasks();
  void write_row(Map &m, int row) const;

  // pool.cpp
  void end_threads();
  void keep_apart();
  void run_phases();
  void work_loop(int thread);
  void run_shares(int thread);
  void serve(int thread);

  std::vector<std::vector<Step>> levels_;
  std::vector<Scratch> scratch_;

  // of the frame that runs
  const float *frame_ = nullptr;
  float *last_frame_ = nullptr;                 // (S, C, H, W)
  std::vector<int32_t> changed_rows_;
  bool begun_ = false;                          // last_frame_ is one
  uint8_t *dense_ = nullptr;
  bool any_dense_ = false;
  float cut_ = -1;
  size_t level_ = 0;
  enum Phase { kFrame, kGates, kCut, kConvs, kDone } phase_ = kDone;
  struct Homed {
    Task task;
    int home;
  };
  std::vector<Homed> planned_;
  std::vector<Task> tasks_;
  struct alignas(64) Share {
    std::atomic<int> next{0};
    int end = 0;
  };
  std::unique_ptr<Share[]> shares_;

  // threads
  int threads_;
  const pid_t pid_ = getpid();
  int caller_cpu_ = -1;
  std::vector<std::thread> pool_;
  alignas(64) std::atomic<int> generation_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_number_{0};
  alignas(64) std::atomic<int> finished_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace skp
