// A frame through the levels: gates of a level, then the convolutions that they opened.
#include <string.h>

#include <algorithm>

#include "plan.h"

namespace skp {
namespace {

constexpr double kGrain = 8e5;            // MACs that are worth a task of their own, float32
constexpr double kPairGrain = 1.6e6;      // on pairs
constexpr double kAmxGrain = 5e6;
constexpr int64_t kGateGrain = 8192;      // elements of the input that are worth one

bool finite(const float *v, size_t n) {
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, v + i, 4);
    bad |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  return !bad;
}

// narrow() and back of a finite number, without a branch.
inline float rounded(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1)) & 0xffff0000u;
  memcpy(&v, &bits, 4);
  return v;
}

// Flags what differs; in half precision the map holds what the last frame rounds to.
void compare(const float *__restrict now, const float *__restrict last, int n, bool half,
             uint8_t *__restrict changed) {
  if (half)
    for (int x = 0; x < n; x++) changed[x] |= rounded(now[x]) != rounded(last[x]);
  else
    for (int x = 0; x < n; x++) changed[x] |= now[x] != last[x];
}

}  // namespace

// Lists the rows that differ from the last frame's; false for NaN or Inf in one of them.
bool Plan::compare_frame(const float *frame) {
  const Map &m = maps[0];
  const size_t plane = (size_t)m.h * m.w;
  changed_rows_.clear();
  for (int s = 0; s < slots; s++)
    for (int y = 0; y < m.h; y++) {
      bool changed = !begun_;
      for (int c = 0; c < m.c && !changed; c++) {
        const size_t at = ((size_t)s * m.c + c) * plane + (size_t)y * m.w;
        changed = memcmp(frame + at, last_frame_ + at, sizeof(float) * m.w) != 0;
      }
      if (!changed) continue;
      changed_rows_.push_back(s * m.h + y);
      for (int c = 0; c < m.c; c++)
        if (!finite(frame + ((size_t)s * m.c + c) * plane + (size_t)y * m.w, m.w)) return false;
    }
  return true;
}

void Plan::frame_row(int row, uint8_t *changed) {
  Map &m = maps[0];
  const int slot = row / m.h, y = row % m.h;
  const size_t plane = (size_t)m.h * m.w;
  const float *from = frame_ + (size_t)slot * m.c * plane + (size_t)y * m.w;
  float *last = last_frame_ + (size_t)slot * m.c * plane + (size_t)y * m.w;
  memset(changed, 0, m.w);
  for (int c = 0; c < m.c; c++, last += plane) {
    compare(from + c * plane, last, m.w, half, changed);
    memcpy(last, from + c * plane, sizeof(float) * m.w);
  }
  for (int x = 0; x < m.w; x++) {
    if (!changed[x]) continue;
    const int64_t at = ((int64_t)row * m.w + x) * m.pitch;
    m.mark(row, x);
    if (m.before)
      memcpy(m.before + at * element_size, m.data + at * element_size, m.pitch * element_size);
    for (int c = 0; c < m.c; c++) {
      if (half)
        narrow(from[c * plane + x], (bf16 *)m.data + at + c);
      else
        ((float *)m.data)[at + c] = from[c * plane + x];
    }
  }
}

void Plan::run_task(const Task &t, int thread) {
  Scratch &s = scratch_[thread];
  switch (t.kind) {
    case Task::kFrameRow:
      for (int i = t.from; i < t.to; i++) frame_row(changed_rows_[i], s.wanted.data());
      break;
    case Task::kGate: gate_rows(*convs[t.index], t.from, t.to, s); break;
    case Task::kElement: element_rows(*elements[t.index], t.from, t.to, s); break;
    case Task::kConv: {
      Conv &c = *convs[t.index];
      if (c.amx)
        conv_amx(c, t.from, t.to, t.c0, t.c1, s);
      else
        conv_blocks(c, t.from, t.to, t.c0, t.c1, s);
    }
  }
}

// Splits [from, to), or [c0, c1), into pieces. A piece has the same home thread in every frame, so
// that a part of the weights is always read by the same core.
void Plan::add_tasks(const Task &task, int pieces, bool by_chunk) {
  const int begin = by_chunk ? task.c0 : task.from, end = by_chunk ? task.c1 : task.to;
  pieces = std::max(1, std::min(pieces, end - begin));
  for (int p = 0; p < pieces; p++) {
    Task t = task;
    const int from = begin + (int)((int64_t)(end - begin) * p / pieces);
    const int to = begin + (int)((int64_t)(end - begin) * (p + 1) / pieces);
    (by_chunk ? t.c0 : t.from) = from;
    (by_chunk ? t.c1 : t.to) = to;
    planned_.push_back({t, (int)((int64_t)p * threads_ / pieces)});
  }
}

void Plan::share_tasks() {
  tasks_.clear();
  for (int thread = 0; thread < threads_; thread++) {
    shares_[thread].next.store((int)tasks_.size(), std::memory_order_relaxed);
    for (const Homed &p : planned_)
      if (p.home == thread) tasks_.push_back(p.task);
    shares_[thread].end = (int)tasks_.size();
  }
  planned_.clear();
}

void Plan::plan_gates() {
  for (const Step &step : levels_[level_]) {
    if (!step.is_conv) {
      const SkpElement &d = elements[step.index]->d;
      bool active = any_dense_;
      for (int i = 0; i < d.nsrc; i++) active |= maps[d.src[i]].any != 0;
      if (!active) continue;
      const Map &out = maps[d.out];
      const int pieces = (int64_t)slots * out.h * out.w * out.c > kGateGrain ? 2 * threads_ : 1;
      add_tasks({Task::kElement, step.index, 0, slots * out.h, 0, 0}, pieces, false);
      continue;
    }
    Conv &c = *convs[step.index];
    c.active = any_dense_ || c.masked || maps[c.d.in].any;
    for (int i = 0; i < c.d.nskip; i++) c.active |= maps[c.d.skip[i]].any != 0;
    if (!c.active) {
      if (c.nopen) {
        memset(c.open_map, 0, (size_t)slots * c.blocks);
        memset(c.row_count, 0, sizeof(int32_t) * slots * c.blocks_y);
      }
      c.nopen = 0;
      memset(c.counts, 0, sizeof(int64_t) * slots * 2);
      continue;
    }
    const Map &x = maps[c.d.in];
    const int pieces = (int64_t)slots * x.h * x.w * x.c > kGateGrain ? 2 * threads_ : 1;
    add_tasks({Task::kGate, step.index, 0, slots * c.blocks_y, 0, 0}, pieces, false);
  }
}

// Rows to the list of open blocks, and what they cost.
void Plan::list_open(Conv &c) {
  const SkpConv &d = c.d;
  const int full = d.block_h * d.block_w;
  const bool ragged = d.oh % d.block_h || d.ow % d.block_w;
  c.nopen = 0;
  for (int slot = 0; slot < slots; slot++) {
    int64_t outputs = 0, looked = 0;
    for (int by = 0; by < c.blocks_y; by++) {
      const int r = slot * c.blocks_y + by, n = c.row_count[r];
      const int32_t *list = c.open_rows + (int64_t)r * c.blocks_x;
      memcpy(c.open + c.nopen, list, sizeof(int32_t) * n);
      c.nopen += n;
      if (c.looked) looked += c.looked[r];
      if (!ragged) {
        outputs += (int64_t)n * full;
        continue;
      }
      const int ys = std::min(d.block_h, d.oh - by * d.block_h);
      for (int i = 0; i < n; i++) {
        const int bx = list[i] % c.blocks % c.blocks_x;
        outputs += ys * std::min(d.block_w, d.ow - bx * d.block_w);
      }
    }
    if (dense_[slot] && !(dense_[slot] == SKP_CUT && d.decides_cut)) looked = 0;
    c.counts[slot * 2] = outputs;
    c.counts[slot * 2 + 1] = looked;
  }
  c.nrunning = c.nopen;
  if (c.run.blocks != c.blocks) list_running(c);
}

// Those that run as one where any of them is open.
void Plan::list_running(Conv &c) {
  const int down = c.run.block_h / c.block_h, across = c.run.block_w / c.block_w;
  c.nrunning = 0;
  for (int r = 0; r < slots * c.run.blocks_y; r++) {
    const int slot = r / c.run.blocks_y, by0 = r % c.run.blocks_y * down;
    const int by1 = std::min(by0 + down, c.blocks_y);
    for (int bx = 0; bx < c.run.blocks_x; bx++) {
      const int width = std::min(across, c.blocks_x - bx * across);
      bool any = false;
      for (int by = by0; by < by1; by++) {
        const int64_t first = ((int64_t)slot * c.blocks_y + by) * c.blocks_x + bx * across;
        any |= memchr(c.open_map + first, 1, width) != nullptr;
      }
      if (any) c.running[c.nrunning++] = r * c.run.blocks_x + bx;
    }
  }
}

// The magnitude that relative thresholds refer to, of the slots that are dense now.
void Plan::measure(Conv &c) {
  const SkpConv &d = c.d;
  const Map &x = maps[d.in], &out = maps[d.out];
  const size_t each = d.scale_of_output ? c.chunks.size() : 1;
  const double count = d.scale_of_output ? (double)out.c * d.oh * d.ow : (double)x.c * x.h * x.w;
  for (int slot = 0; slot < slots; slot++) {
    if (!dense_[slot]) continue;
    double sum = 0;
    double *sums = c.sums + (size_t)slot * c.blocks * each;
    for (size_t i = 0; i < c.blocks * each; i++) sum += sums[i];
    std::fill(sums, sums + c.blocks * each, 0.0);
    c.scale[slot] = std::max((float)(sum / count), 1e-3f);
  }
}

void Plan::finish_gates() {
  for (const Step &step : levels_[level_]) {
    if (!step.is_conv) continue;
    Conv &c = *convs[step.index];
    if (!c.active) continue;
    c.unsure = c.unsure && c.masked;
    list_open(c);
    if (phase_ != kGates || !c.d.decides_cut || cut_ < 0) continue;
    for (int slot = 0; slot < slots; slot++)
      if (!dense_[slot] && (float)c.counts[slot * 2] / ((float)c.d.oh * c.d.ow) > cut_) {
        dense_[slot] = SKP_CUT;
        any_dense_ = true;
      }
  }
}

// The deciding layer again, in full, for slots where it found a cut.
void Plan::plan_cut() {
  for (const Step &step : levels_[level_]) {
    if (!step.is_conv || !convs[step.index]->d.decides_cut) continue;
    const int rows = convs[step.index]->blocks_y;
    for (int slot = 0; slot < slots; slot++)
      if (dense_[slot] == SKP_CUT)
        add_tasks({Task::kGate, step.index, slot * rows, (slot + 1) * rows, 0, 0}, threads_, false);
  }
}

void Plan::plan_convs() {
  for (const Step &step : levels_[level_]) {
    if (!step.is_conv) continue;
    Conv &c = *convs[step.index];
    if (!c.active) continue;
    if (any_dense_ && c.measures && !c.d.scale_of_output) measure(c);
    if (!c.nopen) continue;
    const int area = c.run.block_h * c.run.block_w, chunks = (int)c.chunks.size();
    const int batches = (c.nrunning + c.batch - 1) / c.batch;
    const double macs = (double)c.nrunning * area * c.macs_per_output;
    const double grain = c.amx ? kAmxGrain : c.pairs ? kPairGrain : kGrain;
    int pieces = 1;
    if (threads_ > 1 && macs > grain / 2)
      pieces = std::max(threads_, std::min(4 * threads_, (int)(macs / grain)));
    // Split the larger of weights and input: each thread reads all of the other.
    const bool heavy = (double)c.macs_per_output > (double)c.nrunning * c.run.patch;
    const bool by_chunk = chunks > 1 && (heavy || batches < pieces) && chunks >= threads_;
    if (by_chunk) {
      // Each piece transforms its input again.
      const int most = c.winograd ? threads_ : 2 * threads_;
      add_tasks({Task::kConv, step.index, 0, c.nrunning, 0, chunks}, std::min(pieces, most), true);
    } else {
      // Whole batches.
      pieces = std::min(pieces, batches);
      for (int p = 0; p < pieces; p++) {
        const int from = (int)((int64_t)batches * p / pieces) * c.batch;
        const int to = std::min(c.nrunning, (int)((int64_t)batches * (p + 1) / pieces) * c.batch);
        planned_.push_back({{Task::kConv, step.index, from, to, 0, chunks}, p * threads_ / pieces});
      }
    }
  }
}

// Ends a phase and plans the next one that has tasks; false when the frame is done.
bool Plan::next_phase() {
  do {
    switch (phase_) {
      case kFrame:
        level_ = 0;
        phase_ = kGates;
        break;
      case kGates:
        finish_gates();
        phase_ = kCut;
        break;
      case kCut:
        finish_gates();
        phase_ = kConvs;
        break;
      case kConvs:
        if (any_dense_)
          for (const Step &step : levels_[level_])
            if (step.is_conv && convs[step.index]->measures && convs[step.index]->d.scale_of_output)
              measure(*convs[step.index]);
        level_++;
        phase_ = kGates;
        break;
      case kDone: return false;
    }
    if (level_ >= levels_.size()) {
      phase_ = kDone;
      return false;
    }
    if (phase_ == kGates) plan_gates();
    if (phase_ == kCut) plan_cut();
    if (phase_ == kConvs) plan_convs();
  } while (planned_.empty());
  share_tasks();
  return true;
}

int Plan::run(const float *frame, uint8_t *dense, float cut, int n, const int32_t *out_maps,
              float *const *outputs) {
  if (forked()) return SKP_FORKED;
  if (!compare_frame(frame)) return SKP_NOT_FINITE;
  for (int i = 0; i < n; i++) {
    Map &m = maps[out_maps[i]];
    m.written.resize((size_t)slots * m.c * m.h * m.w);  // may throw: before anything changes
  }
  begun_ = true;
  frame_ = frame;
  dense_ = dense;
  cut_ = cut;
  any_dense_ = false;
  for (int s = 0; s < slots; s++) any_dense_ |= dense[s] != 0;
  for (Map &m : maps) {
    if (!m.any) continue;
    memset(m.dirty, 0, (size_t)slots * m.h * m.w);
    memset(m.rows, 0, (size_t)slots * m.h);
    m.any = 0;
  }
  phase_ = kFrame;
  if (!changed_rows_.empty()) {
    add_tasks({Task::kFrameRow, 0, 0, (int)changed_rows_.size(), 0, 0}, 2 * threads_, false);
    share_tasks();
    run_phases();
  } else if (next_phase()) {
    run_phases();
  }
  for (Map &m : maps) {
    if (m.written.empty() || !(m.any || m.stale)) continue;
    for (int row = 0; row < slots * m.h; row++)
      if (m.stale || m.rows[row]) write_row(m, row);
    m.stale = false;
  }
  for (int i = 0; i < n; i++) {
    const std::vector<float> &written = maps[out_maps[i]].written;
    memcpy(outputs[i], written.data(), sizeof(float) * written.size());
  }
  return SKP_DONE;
}

void Plan::write_row(Map &m, int row) const {
  const int64_t plane = (int64_t)m.h * m.w;
  float *out = m.written.data() + row / m.h * m.c * plane + (int64_t)(row % m.h) * m.w;
  for (int x = 0; x < m.w; x++) {
    const int64_t at = ((int64_t)row * m.w + x) * m.pitch;
    for (int c = 0; c < m.c; c++)
      out[c * plane + x] = half ? widen(((const bf16 *)m.data)[at + c]) : ((const float *)m.data)[at + c];
  }
}

// Maps were written to from outside, as a saved state has them.
void Plan::begin() {
  begun_ = true;
  for (Map &m : maps) m.stale = true;
  for (const auto &c : convs) c->unsure = c->power != nullptr;
}

void Plan::set_mask(int conv, const uint8_t *mask) {
  Conv &c = *convs[conv];
  c.masked = mask != nullptr;
  if (mask) memcpy(c.mask, mask, (size_t)slots * c.blocks);
  c.unsure = c.power != nullptr;
}

}  // namespace skp
