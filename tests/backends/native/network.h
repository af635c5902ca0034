// A small network of every operation, built and run through the engine's plain C interface.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <string>
#include <vector>

#include "skippose_native.h"

[[noreturn]] inline void fail(const std::string &what) {
  fprintf(stderr, "FAILED: %s\n", what.c_str());
  exit(1);
}

inline void require(bool holds, const std::string &what) {
  if (!holds) fail(what);
}

// The same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 1) {}
  float uniform() {  // [-1, 1)
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(state_ >> 32) / 2147483648.0f;
  }
  std::vector<float> many(size_t n, float size) {
    std::vector<float> v(n);
    for (float &x : v) x = size * uniform();
    return v;
  }

 private:
  uint64_t state_;
};

// How the gated convolutions of a network decide.
struct Gate {
  const char *name;
  int kind, previous, frame_source, p, normalize, relative, scale_of_output, rectify;
  float eps, magnitude, bias;
};

struct Options {
  int isa, half, threads, slots, block_h, block_w;
};

struct Shape {
  int h, w, c;
};

class Network {
 public:
  static constexpr int kHeight = 19, kWidth = 18;  // no block divides them

  Network(const Gate &gate, const Options &options);
  ~Network() { skp_free(plan); }
  Network(const Network &) = delete;
  Network &operator=(const Network &) = delete;

  // A frame of all slots; outputs of all maps, or empty where it was refused.
  std::vector<std::vector<float>> run(const std::vector<float> &frame, std::vector<uint8_t> &dense,
                                      float cut) const {
    std::vector<std::vector<float>> outputs;
    std::vector<float *> pointers;
    std::vector<int32_t> ids;
    for (size_t m = 0; m < shapes.size(); m++) {
      const Shape &s = shapes[m];
      outputs.emplace_back((size_t)options.slots * s.h * s.w * s.c, -1e30f);
      ids.push_back((int32_t)m);
    }
    for (auto &o : outputs) pointers.push_back(o.data());
    const int status = skp_run(plan, frame.data(), dense.data(), cut, (int)ids.size(), ids.data(),
                               pointers.data());
    if (status) outputs.clear();
    return outputs;
  }

  // What the last frame opened, of all convolutions.
  std::vector<uint8_t> masks() const {
    std::vector<uint8_t> all;
    for (size_t i = 0; i < convs.size(); i++) {
      const SkpBuffer b = skp_conv_buffer(plan, (int)i, SKP_OPEN);
      all.insert(all.end(), (uint8_t *)b.data, (uint8_t *)b.data + b.bytes);
    }
    return all;
  }

  std::vector<int64_t> counts() const {
    const int64_t *c = skp_counts(plan);
    return std::vector<int64_t>(c, c + convs.size() * options.slots * 2);
  }

  int blocks(const SkpConv &c) const {
    return options.slots * ((c.oh + c.block_h - 1) / c.block_h) *
           ((c.ow + c.block_w - 1) / c.block_w);
  }

  // Every second block, of all convolutions; or what the gates say again.
  void impose(bool on) {
    for (size_t i = 0; i < convs.size(); i++) {
      std::vector<uint8_t> mask(blocks(convs[i]));
      for (size_t b = 0; b < mask.size(); b++) mask[b] = b % 2;
      skp_set_mask(plan, (int)i, on ? mask.data() : nullptr);
    }
  }

  void *plan;
  Options options;
  std::vector<Shape> shapes;       // of maps
  std::vector<SkpConv> convs;      // as described, their pointers no longer valid

 private:
  struct Kernel {
    int kh = 3, kw = 3, sh = 1, sw = 1, top = 1, left = 1, dh = 1, dw = 1, groups = 1;
  };
  bool adds_frame() const { return options.slots > 1; }  // which is laid out otherwise then
  int map(Shape shape, int level) {
    const int made = skp_add_map(plan, shape.h, shape.w, shape.c, gate_.previous,
                                 shapes.empty() && adds_frame());
    require(made == (int)shapes.size(), "maps are numbered from 0");
    shapes.push_back(shape);
    levels_.push_back(level);
    return made;
  }
  int conv(int in, int channels, const Kernel &k, int act, const std::vector<int> &skips = {},
           bool affine = false);
  void convolve(SkpConv d, bool gated, bool affine);
  int transposed(int in, int channels);
  int element(int kind, const std::vector<int> &sources, Shape shape, SkpElement d = {});
  int pool(int kind, int in, int kernel, int stride, int padding, int count_padding);
  int resize(int in, int h, int w);

  Gate gate_;
  Random random_{7};
  std::vector<int> levels_;        // of maps: that of the operations that may read them
};

inline void Network::convolve(SkpConv d, bool gated, bool affine) {
  const int in_channels = shapes[d.in].c / d.groups, out_channels = shapes[d.out].c;
  const int fan = d.kh * d.kw * in_channels;
  const auto weight = random_.many((size_t)out_channels * fan, 2.4f / sqrtf((float)fan));
  const auto bias = random_.many(out_channels, 0.1f), shift = random_.many(out_channels, 0.1f);
  auto scale = random_.many(out_channels, 0.3f);
  for (float &s : scale) s += 1;
  const auto phi = random_.many((size_t)shapes[d.in].c * d.kh * d.kw, 0.2f);
  d.block_h = options.block_h;
  d.block_w = options.block_w;
  d.weight = weight.data();
  d.bias = bias.data();
  d.gain = 1;
  if (affine) d.scale = scale.data(), d.shift = shift.data();
  if (gated) {
    d.gate = gate_.kind;
    d.previous = gate_.previous;
    d.frame_source = gate_.frame_source;
    d.p = gate_.p;
    d.normalize = gate_.normalize;
    d.relative = gate_.relative;
    d.scale_of_output = gate_.scale_of_output;
    d.rectify = gate_.rectify;
    d.eps = gate_.eps;
    d.magnitude = gate_.magnitude;
    d.gate_bias = gate_.bias;
    if (d.gate == SKP_LINEAR) d.phi = phi.data();
  }
  d.decides_cut = convs.empty();
  require(skp_add_conv(plan, &d) == (int)convs.size(), "convolutions are numbered from 0");
  convs.push_back(d);
}

inline int Network::conv(int in, int channels, const Kernel &k, int act,
                         const std::vector<int> &skips, bool affine) {
  const Shape &x = shapes[in];
  SkpConv d = {};
  d.in = in;
  d.kh = k.kh, d.kw = k.kw, d.sh = k.sh, d.sw = k.sw, d.top = k.top, d.left = k.left;
  d.dh = k.dh, d.dw = k.dw, d.groups = k.groups;
  d.oh = (x.h + 2 * k.top - (k.dh * (k.kh - 1) + 1)) / k.sh + 1;
  d.ow = (x.w + 2 * k.left - (k.dw * (k.kw - 1) + 1)) / k.sw + 1;
  d.step_y = d.step_x = 1;
  d.act = act;
  d.act_a = act == SKP_CLAMP ? 0.0f : 0.1f;
  d.act_b = 1.5f;
  d.level = levels_[in];
  d.nskip = (int)skips.size();
  for (size_t i = 0; i < skips.size(); i++) {
    d.skip[i] = skips[i];
    d.level = std::max(d.level, levels_[skips[i]]);
  }
  d.out = map({d.oh, d.ow, channels}, d.level + 1);
  convolve(d, true, affine);
  return d.out;
}

// Stride 2, kernel 3: four convolutions into one map, a phase each.
inline int Network::transposed(int in, int channels) {
  const Shape &x = shapes[in];
  const int level = levels_[in], out = map({2 * x.h, 2 * x.w - 1, channels}, level + 1);
  for (int y = 0; y < 2; y++)
    for (int i = 0; i < 2; i++) {
      SkpConv d = {};
      d.in = in;
      d.out = out;
      d.kh = 1 + y, d.kw = 1 + i;
      d.sh = d.sw = d.dh = d.dw = d.groups = 1;
      d.step_y = d.step_x = 2;
      d.at_y = y, d.at_x = i;
      d.oh = x.h, d.ow = i ? x.w - 1 : x.w;
      d.act = SKP_TANH;
      d.level = level;
      convolve(d, false, false);
    }
  return out;
}

inline int Network::element(int kind, const std::vector<int> &sources, Shape shape, SkpElement d) {
  d.kind = kind;
  d.nsrc = (int)sources.size();
  for (size_t i = 0; i < sources.size(); i++) {
    d.src[i] = sources[i];
    d.level = std::max(d.level, levels_[sources[i]]);
    d.factor_y[i] = std::max(1, (shape.h + shapes[sources[i]].h - 1) / shapes[sources[i]].h);
    d.factor_x[i] = std::max(1, (shape.w + shapes[sources[i]].w - 1) / shapes[sources[i]].w);
  }
  d.out = map(shape, d.level + 1);
  require(skp_add_element(plan, &d) >= 0, "an element");
  return d.out;
}

inline int Network::pool(int kind, int in, int kernel, int stride, int padding, int count_padding) {
  const Shape &x = shapes[in];
  SkpElement d = {};
  d.kh = kernel ? kernel : x.h, d.kw = kernel ? kernel : x.w;  // 0: the whole map
  d.sh = d.sw = stride;
  d.top = d.left = padding;
  d.dh = d.dw = 1;
  d.count_padding = count_padding;
  const int h = (x.h + 2 * padding - d.kh) / stride + 1;
  const int w = (x.w + 2 * padding - d.kw) / stride + 1;
  return element(kind, {in}, {h, w, x.c}, d);
}

inline int Network::resize(int in, int h, int w) {
  const Shape &x = shapes[in];
  auto places = [](int size, int to, std::vector<int32_t> &a, std::vector<int32_t> &b,
                   std::vector<float> &share) {
    for (int i = 0; i < to; i++) {
      const float at = std::max(0.0f, (i + 0.5f) * size / to - 0.5f);
      a.push_back(std::min((int)at, size - 1));
      b.push_back(std::min((int)at + 1, size - 1));
      share.push_back(at - (int)at);
    }
  };
  std::vector<int32_t> ya, yb, xa, xb;
  std::vector<float> ys, xs;
  places(x.h, h, ya, yb, ys);
  places(x.w, w, xa, xb, xs);
  SkpElement d = {};
  d.first_y = ya.data(), d.second_y = yb.data(), d.share_y = ys.data();
  d.first_x = xa.data(), d.second_x = xb.data(), d.share_x = xs.data();
  return element(SKP_RESIZE, {in}, {h, w, x.c}, d);
}

inline Network::Network(const Gate &gate, const Options &options) : options(options), gate_(gate) {
  plan = skp_new(options.slots, options.isa, options.half, options.threads);
  require(plan != nullptr, "a plan");
  const int frame = map({kHeight, kWidth, 3}, 0);
  const int stem = conv(frame, 9, {3, 3, 2, 2, 1, 1, 1, 1, 1}, SKP_RELU);
  if (adds_frame()) conv(frame, 3, {}, SKP_RELU, {frame});
  const int wide = conv(stem, 40, {}, SKP_LEAKY);
  const int added = conv(stem, 40, {1, 1, 1, 1, 0, 0, 1, 1, 1}, SKP_RELU, {wide, wide}, true);
  const int deep = conv(added, 40, {3, 3, 1, 1, 1, 1, 1, 1, 40}, SKP_SILU);
  const int grouped = conv(deep, 24, {5, 3, 2, 1, 2, 1, 1, 1, 4}, SKP_HARD_SWISH);
  const int dilated = conv(stem, 34, {3, 3, 1, 1, 2, 2, 2, 2, 1}, SKP_CLAMP);
  const int holes = conv(grouped, 33, {1, 1, 2, 2, 0, 0, 1, 1, 1}, SKP_IDENTITY);
  const int half = conv(added, 40, {3, 3, 2, 2, 1, 1, 1, 1, 1}, SKP_IDENTITY, {}, true);
  const int pooled = pool(SKP_MAX_POOL, added, 3, 2, 1, 0);
  const int mean = pool(SKP_AVG_POOL, deep, 3, 2, 1, 1);
  const Shape small = shapes[pooled], full = shapes[added];
  SkpElement act = {};
  act.act = SKP_HARD_SIGMOID;
  const int both = element(SKP_SUM, {pooled, mean}, small, act);
  const int scaled = element(SKP_MUL, {deep, pool(SKP_AVG_POOL, deep, 0, 1, 0, 0)}, full);
  const int fused = element(SKP_SUM, {scaled, half}, full);
  const int grown = resize(holes, full.h, full.w);
  element(SKP_CONCAT, {dilated, grown, fused}, {full.h, full.w, 34 + 33 + 40});
  transposed(both, 10);
  const int tiny = pool(SKP_MAX_POOL, holes, 2, 2, 0, 0);
  const Shape t = shapes[tiny];
  const int flat = element(SKP_FLATTEN, {tiny}, {1, 1, t.h * t.w * t.c});
  conv(flat, 9, {1, 1, 1, 1, 0, 0, 1, 1, 1}, SKP_SIGMOID);
  require(skp_finish(plan) == 0, "memory for the maps");
}
