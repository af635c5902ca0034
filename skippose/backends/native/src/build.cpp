// From descriptions to a plan that can run: packed weights, levels, memory.
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <new>

#include "element.h"

namespace skp {
namespace {

constexpr size_t kHugePage = 2 << 20;

int round_up(int n, int to) { return (n + to - 1) / to * to; }

}  // namespace

Arena::~Arena() {
  for (void *block : blocks_) free(block);
}

void *Arena::take(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64 + 64;  // kernels may read a vector beyond the end
  if (bytes > left_) {
    const size_t size = std::max((bytes + kHugePage - 1) / kHugePage * kHugePage, 8 * kHugePage);
    void *block = nullptr;
    if (posix_memalign(&block, kHugePage, size)) throw std::bad_alloc();
    blocks_.push_back(block);
#ifdef __linux__
    madvise(block, size, MADV_HUGEPAGE);
#endif
    at_ = (char *)block;
    left_ = size;
  }
  void *result = at_;
  memset(result, 0, bytes);
  at_ += bytes;
  left_ -= bytes;
  taken_ += bytes;
  return result;
}

int Plan::add_map(int h, int w, int c, bool keep_before, bool added) {
  Map m;
  m.h = h;
  m.w = w;
  m.c = c;
  // Only the frame may be narrow, convolutions write whole vectors; not one that is added to their
  // outputs, for it must lie as these do.
  const bool narrow = maps.empty() && c < 8 && !added;
  m.pitch = narrow ? c : round_up(c, half ? 32 : kLane);
  m.keep_before = keep_before;
  maps.push_back(m);
  return (int)maps.size() - 1;
}

int Plan::add_conv(const SkpConv &desc) {
  if ((int64_t)desc.kh * desc.kw > SKP_MOST_TAPS) return -1;
  std::unique_ptr<Conv> made(new Conv());
  Conv &c = *made;
  c.d = desc;
  const SkpConv &d = c.d;
  const Map &x = maps[d.in], &out = maps[d.out];
  c.taps = d.kh * d.kw;
  (Grid &)c = c.run = Grid(d, x.pitch, d.block_h, d.block_w);
  c.holes = d.dh > 1 || d.dw > 1 || d.sh > d.kh || d.sw > d.kw;
  const bool norm = d.gate == SKP_INPUT_NORM, own = d.gate == SKP_OUTPUT;
  // A score that is no difference of two scores: the input itself must be compared.
  const bool of_change = norm || (d.gate == SKP_LINEAR && d.rectify);
  c.keeps_held = of_change && !d.previous && !d.frame_source;
  c.measures = d.gate != SKP_NO_GATE && d.relative && d.magnitude <= 0;
  c.looks = d.gate == SKP_LINEAR || own;
  c.needs_z = d.nskip > 0 || d.previous ||
              (own && !d.frame_source && (d.act || d.scale));
  // previous without anything after it: the map is its z.
  if (d.previous && !half && !d.nskip && !d.act && !d.scale) c.needs_z = false;
  c.z_float = d.previous || !half;
  const int per_group_out = out.c / d.groups, per_group_in = x.c / d.groups;
  c.depthwise = d.groups > 1 && per_group_in == 1 && per_group_out == 1 && x.pitch % kLane == 0;
  c.amx = half && amx && !d.previous && !own && d.groups == 1;
  c.pairs = half && !c.amx && kernels->gemm_pairs && !d.previous && !own && !c.depthwise &&
            per_group_in % 2 == 0 && x.pitch % 2 == 0;
  c.winograd = winograd_side(c);
  c.pairs = c.pairs && !c.winograd;
  c.half_patch = half && !d.previous && (c.pairs || c.winograd);
  c.im2col = c.amx && x.pitch % 32 != 0;
  c.k32 = c.im2col ? round_up(c.taps * x.c, 32) / 32 : x.pitch / 32;
  if (c.winograd > d.block_h) c.run = Grid(d, x.pitch, c.winograd, c.winograd);
  c.products = c.winograd ? (c.winograd + 2) * (c.winograd + 2) : c.taps;
  c.batch = std::max(1, (c.winograd ? 2 * kPixels : kPixels) / (c.run.block_h * c.run.block_w));
  c.macs_per_output = (int64_t)c.taps * per_group_in * out.c;
  pack(c);
  convs.push_back(std::move(made));
  if ((int)levels_.size() <= d.level) levels_.resize(d.level + 1);
  levels_[d.level].push_back({true, (int)convs.size() - 1});
  return (int)convs.size() - 1;
}

void Plan::pack(Conv &c) {
  const SkpConv &d = c.d;
  const Map &x = maps[d.in], &out = maps[d.out];
  const int o_total = out.c, per_out = out.c / d.groups, per_in = x.c / d.groups;
  int64_t size = 0, half_size = 0;
  for (int first = 0; first < out.pitch; first += kChunk) {
    Chunk k;
    k.first = first;
    k.width = std::min(kChunk, out.pitch - first);
    const int last = std::min(first + k.width, o_total) - 1;
    k.in = first / per_out * per_in;
    k.channels = (last / per_out + 1) * per_in - k.in;
    if (c.depthwise) k.channels = 1;
    k.weight = size;
    size += (int64_t)c.products * k.channels * k.width;
    k.half_weight = half_size;
    half_size += c.pairs ? (int64_t)c.taps * k.channels * k.width
                         : (int64_t)(c.im2col ? 1 : c.taps) * c.k32 * 1024;
    c.chunks.push_back(k);
  }
  auto at = [&](int o, int i, int t) -> float {  // 0 beyond the channels and outside of groups
    if (o >= o_total || i / per_in != o / per_out || i >= x.c) return 0;
    return d.weight[((int64_t)o * per_in + i % per_in) * c.taps + t];
  };
  auto rounded = [&](float v) {
    if (!half || d.previous || c.winograd) return v;
    bf16 r;
    narrow(v, &r);
    return widen(r);
  };
  if (c.amx) {
    c.half_weight = weights.of<bf16>(half_size);
    for (const Chunk &k : c.chunks) {
      bf16 *w = c.half_weight + k.half_weight;
      for (int t = 0; t < (c.im2col ? 1 : c.taps); t++)
        for (int b = 0; b < c.k32; b++)
          for (int side = 0; side < 2; side++)
            for (int pair = 0; pair < 16; pair++)
              for (int o = 0; o < 16; o++)
                for (int e = 0; e < 2; e++) {
                  const int i = b * 32 + pair * 2 + e, channel = k.first + side * 16 + o;
                  const bool real = !c.im2col || i < c.taps * x.c;
                  const float v = !real      ? 0
                                  : c.im2col ? at(channel, i % x.c, i / x.c)
                                             : at(channel, i, t);
                  narrow(v, w++);
                }
    }
  } else if (c.pairs) {
    c.half_weight = weights.of<bf16>(half_size);
    for (const Chunk &k : c.chunks) {
      bf16 *w = c.half_weight + k.half_weight;
      for (int t = 0; t < c.taps; t++)
        for (int i = 0; i < k.channels; i += 2)
          for (int o = 0; o < k.width; o++)
            for (int e = 0; e < 2; e++) narrow(at(k.first + o, k.in + i + e, t), w++);
    }
  } else {
    c.weight = weights.of<float>(size);
    for (const Chunk &k : c.chunks) {
      float *w = c.weight + k.weight;
      const int64_t plane = (int64_t)k.channels * k.width;
      for (int i = 0; i < k.channels; i++)
        for (int o = 0; o < k.width; o++, w++) {
          const int channel = k.first + o;
          float taps[SKP_MOST_TAPS];
          for (int t = 0; t < c.taps; t++)
            taps[t] = rounded(at(channel, c.depthwise ? channel : k.in + i, t));
          if (c.winograd)
            winograd_weights(c.winograd, taps, w, plane);
          else
            for (int t = 0; t < c.taps; t++) w[t * plane] = taps[t];
        }
    }
  }
  auto vector = [&](const float *from, int n, int padded) {
    float *to = weights.of<float>(padded);
    memcpy(to, from, sizeof(float) * n);
    return to;
  };
  c.bias = vector(d.bias, o_total, out.pitch);
  if (d.scale) {
    c.scale_o = vector(d.scale, o_total, out.pitch);
    c.shift_o = vector(d.shift, o_total, out.pitch);
  }
  if (d.phi) {
    c.phi = weights.of<float>((size_t)c.taps * x.c);
    for (int i = 0; i < x.c; i++)
      for (int t = 0; t < c.taps; t++) c.phi[t * x.c + i] = d.phi[i * c.taps + t];
  }
  c.d.weight = c.d.bias = c.d.scale = c.d.shift = c.d.phi = nullptr;  // the caller's
}

int Plan::add_element(const SkpElement &desc) {
  if (!is_element_kind(desc.kind)) return -1;
  std::unique_ptr<Element> made(new Element());
  Element &e = *made;
  e.d = desc;
  const Map &out = maps[desc.out];
  e.window = std::max({desc.kh * desc.kw, desc.nsrc, 4});
  if (desc.first_y) {
    e.first_y.assign(desc.first_y, desc.first_y + out.h);
    e.second_y.assign(desc.second_y, desc.second_y + out.h);
    e.share_y.assign(desc.share_y, desc.share_y + out.h);
    e.first_x.assign(desc.first_x, desc.first_x + out.w);
    e.second_x.assign(desc.second_x, desc.second_x + out.w);
    e.share_x.assign(desc.share_x, desc.share_x + out.w);
  }
  if (desc.scale) {
    e.scale = weights.of<float>(out.pitch);
    e.shift = weights.of<float>(out.pitch);
    memcpy(e.scale, desc.scale, sizeof(float) * out.c);
    memcpy(e.shift, desc.shift, sizeof(float) * out.c);
  }
  elements.push_back(std::move(made));
  if ((int)levels_.size() <= desc.level) levels_.resize(desc.level + 1);
  levels_[desc.level].push_back({false, (int)elements.size() - 1});
  return (int)elements.size() - 1;
}

void Plan::allocate(Conv &c) {
  const SkpConv &d = c.d;
  const Map &out = maps[d.out];
  const int64_t blocks = (int64_t)slots * c.blocks;
  if (c.needs_z)
    c.z = state.of<char>((size_t)slots * out.h * out.w * out.pitch * (c.z_float ? 4 : 2));
  if (c.keeps_held) {
    c.held = state.of<char>(blocks * c.patch * element_size);
    if (d.gate == SKP_INPUT_NORM) c.power = state.of<float>(blocks * c.patch_h * c.patch_w);
  }
  if (d.gate == SKP_LINEAR && !d.rectify && !d.previous && !d.frame_source)
    c.linear = state.of<float>((size_t)slots * d.oh * d.ow);
  c.scale = state.of<float>(slots);
  for (int s = 0; s < slots; s++) c.scale[s] = d.magnitude;
  c.open_map = work.of<uint8_t>(blocks);
  c.mask = work.of<uint8_t>(blocks);
  c.open_rows = work.of<int32_t>(blocks);
  c.open = c.running = work.of<int32_t>(blocks);
  if (c.run.blocks != c.blocks) c.running = work.of<int32_t>((size_t)slots * c.run.blocks);
  c.row_count = work.of<int32_t>((size_t)slots * c.blocks_y);
  if (c.measures) c.sums = work.of<double>(blocks * (d.scale_of_output ? c.chunks.size() : 1));
  if (c.looks) c.looked = work.of<int64_t>((size_t)slots * c.blocks_y);
}

// Where maps say how far they moved: those that one operation writes, pixel by pixel, for gates
// with a bound.
void Plan::allocate_moved() {
  std::vector<int> writers(maps.size()), planes(maps.size());
  for (const auto &c : convs) {
    writers[c->d.out]++;
    planes[c->d.out] = c->d.step_y == 1 && c->d.step_x == 1 ? (int)c->chunks.size() : 0;
  }
  for (const auto &e : elements) {
    writers[e->d.out]++;
    planes[e->d.out] = element_kind(e->d.kind).measures;
  }
  for (const auto &c : convs) {
    Map &x = maps[c->d.in];
    const bool norm = c->d.gate == SKP_INPUT_NORM && c->keeps_held;
    c->bounded = norm && c->d.p == 1 && writers[c->d.in] == 1 && planes[c->d.in];
    if (!c->bounded || x.moved) continue;
    x.planes = planes[c->d.in];
    x.moved = state.of<float>((size_t)slots * x.h * x.w * x.planes);
  }
}

void Plan::finish() {
  for (Map &m : maps) {
    const size_t pixels = (size_t)slots * m.h * m.w;
    m.data = state.of<char>(pixels * m.pitch * element_size);
    if (m.keep_before) m.before = state.of<char>(pixels * m.pitch * element_size);
    m.dirty = state.of<uint8_t>(pixels);
    m.rows = state.of<uint8_t>((size_t)slots * m.h);
  }
  allocate_moved();
  const Map &frame = maps[0];
  last_frame_ = state.of<float>((size_t)slots * frame.c * frame.h * frame.w);
  changed_rows_.reserve((size_t)slots * frame.h);
  counts.assign(convs.size() * slots * 2, 0);
  for (size_t i = 0; i < convs.size(); i++) {
    allocate(*convs[i]);
    convs[i]->counts = counts.data() + i * slots * 2;
  }
  // The heaviest weights of a level first, and for each the next of its size in a later level.
  std::vector<Conv *> waiting;
  for (size_t l = levels_.size(); l-- > 0;) {
    auto bytes = [&](const Step &s) {
      return s.is_conv ? convs[s.index]->macs_per_output : (int64_t)0;
    };
    std::stable_sort(levels_[l].begin(), levels_[l].end(),
                     [&](const Step &a, const Step &b) { return bytes(a) > bytes(b); });
    std::vector<Conv *> here;
    for (const Step &s : levels_[l]) {
      if (!s.is_conv) continue;
      Conv &c = *convs[s.index];
      auto same = std::find_if(waiting.begin(), waiting.end(), [&](const Conv *n) {
        return n->macs_per_output == c.macs_per_output && n->chunks.size() == c.chunks.size() &&
               n->taps == c.taps && n->amx == c.amx && n->pairs == c.pairs;
      });
      if (same != waiting.end()) {
        c.next = *same;
        waiting.erase(same);
      }
      here.push_back(&c);
    }
    waiting.insert(waiting.begin(), here.begin(), here.end());
  }
  size_t patch = 0, outputs = kPixels, rows = 0, half_patch = 0, window = 4;
  size_t power = maps[0].w;
  size_t transformed = 0, products = 0, blocks_x = 0;
  for (const auto &p : convs) {
    const Conv &c = *p;
    const size_t batch = c.batch, n = batch * c.run.block_h * c.run.block_w;
    outputs = std::max(outputs, n);
    blocks_x = std::max(blocks_x, (size_t)c.blocks_x);
    patch = std::max(patch, batch * c.run.patch);
    power = std::max({power, (size_t)c.patch_h * c.patch_w, (size_t)maps[c.d.in].w, n});
    if (c.winograd) {
      const size_t planes = c.products * (n / (c.winograd * c.winograd));
      transformed = std::max(transformed, planes * maps[c.d.in].pitch);
      products = std::max(products, (planes + 32) * kChunk);
    }
    if (half) half_patch = std::max(half_patch, (size_t)c.run.patch);
    if (c.amx) {
      const size_t pitch = c.im2col ? c.k32 * 32 : maps[c.d.in].pitch;
      const size_t padded = (n + 31) / 32 * 32, columns = batch * c.d.block_w;
      const size_t shared = c.d.kw * ((c.d.kh - 1) * columns + padded) * pitch;
      rows = std::max({rows, shared, (c.im2col ? 1 : c.taps) * padded * pitch});
    }
  }
  for (const auto &e : elements) window = std::max(window, (size_t)e->window);
  outputs = (outputs + 31) / 32 * 32 + 32;
  scratch_.resize(threads_);
  for (Scratch &s : scratch_) {
    s.patch.resize(patch + 64);
    s.power.resize(power);
    s.columns.resize(power);
    s.wanted.resize(power);
    s.acc.resize(outputs * kChunk);
    s.transformed.resize(transformed);
    s.products.resize(products);
    s.rows.resize(rows + 64);
    s.half_patch.resize(half_patch + 64);
    s.pixels.resize(outputs);
    s.rows_of.resize(outputs);
    s.offsets.resize(outputs);
    s.places.resize(outputs);
    s.block_of.resize(outputs);
    s.above.resize(blocks_x);
    s.flags.resize(outputs);
    s.moved.resize(outputs);
    s.add.resize(outputs);
    s.sources.resize(window);
    s.coefs.resize(window);
  }
}

}  // namespace skp
