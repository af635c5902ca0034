// Drives the engine without Python, for sanitizers and emulators: every kind of gate, operation,
// precision, and set of instructions that the CPU has, with one thread and several.
//
// It exits with 1, and says why, unless
// - several threads give to the bit what one gives, and so does a plan that runs beside another;
// - a frame with NaN is refused, and what follows is to the bit what it would have been;
// - where every change opens its block, a frame's maps are those of a plan that saw it alone;
// - sets of instructions agree within a bound, and their gates within a few blocks;
// - plans can be freed before a frame, right after one, and when their threads sleep.
#include <string.h>

#include <chrono>
#include <thread>

#include "network.h"

namespace {

// Kind, previous, frame source; p, normalised, relative, to the output, rectified; eps, magnitude,
// bias. The thresholds leave some blocks open and some closed.
const Gate kGates[] = {
    {"none", SKP_NO_GATE, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0},
    {"every change, hold", SKP_INPUT_NORM, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0},
    {"every change, previous", SKP_INPUT_NORM, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0},
    {"input norm, hold", SKP_INPUT_NORM, 0, 0, 1, 1, 1, 0, 0, 0.2f, 0, 0},
    {"input norm, previous", SKP_INPUT_NORM, 1, 0, 2, 1, 1, 1, 0, 0.2f, 0, 0},
    {"largest input, hold", SKP_INPUT_NORM, 0, 0, 0, 0, 1, 0, 0, 0.5f, 0.4f, 0},
    {"output norm, hold", SKP_OUTPUT, 0, 0, 1, 1, 1, 1, 0, 0.2f, 0, 0},
    {"output norm, previous", SKP_OUTPUT, 1, 0, 2, 1, 1, 0, 0, 0.2f, 0, 0},
    {"output norm of the frame, previous", SKP_OUTPUT, 1, 1, 0, 0, 0, 0, 0, 1.6f, 0, 0},
    {"input norm of the frame, hold", SKP_INPUT_NORM, 0, 1, 1, 1, 0, 0, 0, 0.45f, 0, 0},
    {"linear, hold", SKP_LINEAR, 0, 0, 1, 1, 0, 0, 1, 0, 0, -0.3f},
    {"linear, previous", SKP_LINEAR, 1, 0, 1, 1, 0, 0, 0, 0, 0, -0.1f},
    {"linear of the frame, hold", SKP_LINEAR, 0, 1, 1, 1, 0, 0, 0, 0, 0, -0.2f},
};
// Largest deviation between sets of instructions, as a share of a map's largest value.
constexpr float kBound[] = {1e-4f, 0.05f};
constexpr float kBlocksThatDiffer = 0.01f;  // share of a gate's decisions within rounding
const int kBlocks[][2] = {{1, 1}, {2, 2}, {4, 4}, {8, 8}, {3, 5}};
constexpr int kNever = -1;

struct Event {
  enum Kind { kFirst, kMove, kStill, kNoise, kBad, kImposed, kOwn, kCut, kReset } kind;
};
const Event kVideo[] = {{Event::kFirst}, {Event::kMove},    {Event::kStill}, {Event::kBad},
                        {Event::kNoise}, {Event::kImposed}, {Event::kOwn},   {Event::kCut},
                        {Event::kBad},   {Event::kReset},   {Event::kMove}};

struct Seen {  // of all frames
  std::vector<std::vector<std::vector<float>>> outputs;
  std::vector<std::vector<uint8_t>> masks;
  std::vector<std::vector<int64_t>> counts;
  std::vector<bool> fresh;  // whether the frame's maps are those of the frame alone
  std::vector<std::vector<float>> frames;
  double open = 0, decided = 0;  // blocks, after the first frame
};

std::string describe(const Gate &gate, const Options &o) {
  char text[200];
  snprintf(text, sizeof text, "%s, isa %d, %s, %d threads, %d slots, blocks of %dx%d", gate.name,
           o.isa, o.half ? "bfloat16" : "float32", o.threads, o.slots, o.block_h, o.block_w);
  return text;
}

Seen play(const Gate &gate, const Options &options, bool with_bad) {
  const std::string what = describe(gate, options);
  Network net(gate, options);
  Random random(3);
  const size_t plane = Network::kHeight * Network::kWidth, slot = 3 * plane;
  auto frame = random.many(options.slots * slot, 1);
  Seen seen;
  int moves = 0;
  for (const Event &event : kVideo) {
    // Also after blocks were imposed, so that what those left out is not missing from then on.
    const bool whole = event.kind == Event::kFirst || event.kind == Event::kOwn;
    std::vector<uint8_t> dense(options.slots, whole);
    float cut = kNever;
    auto now = frame;
    switch (event.kind) {
      case Event::kFirst:
      case Event::kStill: break;
      case Event::kNoise:
        for (float &v : now) v += 0.02f * random.uniform();
        break;
      case Event::kCut:
        for (size_t i = (options.slots - 1) * slot; i < now.size(); i++) now[i] = random.uniform();
        cut = 0.4f;
        break;
      case Event::kBad:
        now[(options.slots - 1) * slot + plane + 5] = NAN;
        now[0] = INFINITY;
        break;
      case Event::kReset: dense[0] = 1; [[fallthrough]];
      default:  // a patch in every slot but the first, and there too every second time
        moves++;
        for (int s = moves % 2 && options.slots > 1 ? 1 : 0; s < options.slots; s++)
          for (int c = 0; c < 3; c++)
            for (int y = 0; y < 6; y++)
              for (int x = 0; x < 5; x++)
                now[s * slot + c * plane + (y + 2 * moves) * Network::kWidth + x + 2 * moves] =
                    random.uniform();
    }
    if (event.kind == Event::kBad) {
      if (!with_bad) continue;
      require(net.run(now, dense, cut).empty(), what + ": a frame with NaN was taken");
      continue;
    }
    if (event.kind == Event::kImposed || event.kind == Event::kOwn)
      net.impose(event.kind == Event::kImposed);
    seen.outputs.push_back(net.run(now, dense, cut));
    require(!seen.outputs.back().empty(), what + ": a good frame was refused");
    if (event.kind == Event::kCut && gate.kind != SKP_LINEAR && !gate.frame_source)
      require(dense.back() == 2, what + ": no cut was found");
    frame = now;
    const auto masks = net.masks();
    if (!dense[0] && event.kind != Event::kImposed) {
      for (uint8_t m : masks) seen.open += m;
      seen.decided += (double)masks.size();
    }
    seen.fresh.push_back(event.kind != Event::kImposed);
    seen.masks.push_back(masks);
    seen.counts.push_back(net.counts());
    seen.frames.push_back(frame);
  }
  require(skp_state_bytes(net.plan) > 0, what + ": no state");
  return seen;
}

float largest(const std::vector<float> &v) {
  float most = 1e-3f;
  for (float x : v) most = std::max(most, fabsf(x));
  return most;
}

// The largest deviation of a frame's maps, as a share of each map's largest value.
float deviation(const std::vector<std::vector<float>> &found,
                const std::vector<std::vector<float>> &expected, const std::string &what) {
  float worst = 0;
  for (size_t m = 0; m < expected.size(); m++) {
    float most = 0;
    for (size_t i = 0; i < expected[m].size(); i++) {
      require(isfinite(found[m][i]), what + ": a value that is not finite");
      most = std::max(most, fabsf(found[m][i] - expected[m][i]));
    }
    worst = std::max(worst, most / largest(expected[m]));
  }
  return worst;
}

void require_same(const Seen &found, const Seen &expected, const std::string &what) {
  require(found.masks == expected.masks, what + ": other blocks");
  require(found.counts == expected.counts, what + ": other counts");
  for (size_t t = 0; t < expected.outputs.size(); t++)
    for (size_t m = 0; m < expected.outputs[t].size(); m++)
      require(memcmp(found.outputs[t][m].data(), expected.outputs[t][m].data(),
                     sizeof(float) * expected.outputs[t][m].size()) == 0,
              what + ": another map " + std::to_string(m) + " in frame " + std::to_string(t));
}

// Where nothing is skipped, each frame by a new plan gives the same.
void require_fresh(const Seen &seen, const Gate &gate, const Options &options) {
  const std::string what = describe(gate, options) + ": ";
  for (size_t t = 1; t < seen.frames.size(); t++) {
    if (!seen.fresh[t]) continue;
    Network alone(gate, options);
    std::vector<uint8_t> dense(options.slots, 1);
    const float worst = deviation(seen.outputs[t], alone.run(seen.frames[t], dense, kNever), what);
    // `previous` adds updates: exact in the sum, but not to the bit.
    const float bound = !gate.previous ? 0 : options.half ? 0.02f : 1e-5f;
    require(worst <= bound, what + "frame " + std::to_string(t) +
                                " is not that of the frame alone, " + std::to_string(worst));
  }
}

// Share of decisions that differ, until masks from elsewhere stand in for them.
float flips(const Seen &found, const Seen &expected) {
  double wrong = 0, all = 0;
  for (size_t t = 0; t < expected.masks.size(); t++)
    for (size_t i = 0; i < expected.masks[t].size(); i++, all++)
      wrong += found.masks[t][i] != expected.masks[t][i];
  return (float)(wrong / all);
}

void check_gate(const Gate &gate, const std::vector<int> &isas, int index, bool brief) {
  float worst[2] = {0, 0}, most_flips = 0;
  double open = 0, decided = 0;
  for (int half = 0; half < 2; half++) {
    if (brief && half != index % 2) continue;
    for (int turn = 0; turn < 2; turn++) {
      // Not every gate with every size of blocks: with two of them in each precision.
      const int *block = kBlocks[(index + half + 2 * turn) % 5];
      const int slots = turn ? 3 : 1, threads = (index + turn) % 2 ? 2 : 4;
      Options options = {isas[0], half, 1, slots, block[0], block[1]};
      Seen first;
      for (int isa : isas) {
        options.isa = isa;
        options.threads = 1;
        const Seen one = play(gate, options, true);
        options.threads = threads;
        const Seen several = play(gate, options, false);
        require_same(several, one, describe(gate, options) + ", against one and frames with NaN");
        open += one.open;
        decided += one.decided;
        if (!brief && gate.eps == 0 && gate.kind != SKP_LINEAR) require_fresh(one, gate, options);
        if (isa == isas[0]) {
          first = one;
          continue;
        }
        const std::string what = describe(gate, options) + ", against isa 0";
        const float differ = flips(one, first);
        most_flips = std::max(most_flips, differ);
        require(differ <= kBlocksThatDiffer, what + ": blocks differ, a share of " +
                                                 std::to_string(differ));
        if (differ > 0) continue;  // values differ by what a gate lets pass
        for (size_t t = 0; t < one.outputs.size(); t++)
          worst[half] = std::max(worst[half], deviation(one.outputs[t], first.outputs[t], what));
        require(worst[half] <= kBound[half], what + ": maps differ by " +
                                                 std::to_string(worst[half]));
      }
    }
  }
  const double share = open / decided;
  printf("%-36s open %.2f", gate.name, share);
  for (int half = 0; half < 2; half++)
    if (!brief || half == index % 2)
      printf("  %s within %.1e", half ? "bfloat16" : "float32", worst[half]);
  printf("  blocks that differ %.4f\n", most_flips);
  fflush(stdout);
  require(share > 0.02 && share < 0.98, std::string(gate.name) + ": its gates are not live");
}

void check_lives(int isa) {
  const Options options = {isa, 0, 4, 2, 4, 4};
  { Network never_used(kGates[3], options); }
  for (int rest : {0, 0, 5}) {  // milliseconds; threads sleep after a fraction of one
    Network net(kGates[3], options);
    Random random(1);
    const size_t size = (size_t)options.slots * 3 * Network::kHeight * Network::kWidth;
    std::vector<uint8_t> dense(options.slots, 1);
    for (int t = 0; t < 2; t++) {
      std::this_thread::sleep_for(std::chrono::milliseconds(rest));
      net.run(random.many(size, 1), dense, kNever);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(rest));
  }
  const Seen expected = play(kGates[3], options, false);
  Seen found[2];
  std::thread others[2];
  for (int i = 0; i < 2; i++)
    others[i] = std::thread([&, i] { found[i] = play(kGates[3], options, false); });
  for (auto &t : others) t.join();
  for (const Seen &f : found) require_same(f, expected, "plans side by side");
  require(skp_new(1, SKP_AMX + 1, 0, 1) == nullptr, "an unknown set of instructions was taken");
  puts("plans freed before, after and long after a frame, and two side by side");
}

}  // namespace

// Arguments: --best N, the number (SkpIsa) of the best set of instructions that is expected;
// --brief: every gate in one precision, and no frames alone.
int main(int argc, char **argv) {
  bool brief = false;
  std::string best;
  for (int i = 1; i < argc; i++) {
    const std::string word = argv[i];
    if (word == "--brief")
      brief = true;
    else if (word == "--best" && i + 1 < argc)
      best = argv[++i];
    else
      fail("unknown argument " + word);
  }
  const std::string found = std::to_string(skp_best_isa());
  require(best.empty() || best == found, "the best set of instructions is " + found +
                                             ", expected " + best);
  std::vector<int> isas;
  for (int isa = 0; isa <= SKP_AMX; isa++)
    if (skp_has_isa(isa)) isas.push_back(isa);
  const char *const names[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};
  printf("sets of instructions:");
  for (int isa : isas) printf(" %s", names[isa]);
  puts("");
  int index = 0;
  for (const Gate &gate : kGates) check_gate(gate, isas, index++, brief);
  check_lives(isas.back());
  puts("passed");
}
