// Our own threads: they spin between the phases of a frame, and sleep between frames.
#include <sched.h>

#include <chrono>

#include "plan.h"

namespace skp {
namespace {

constexpr int kSpins = 4000;                      // then other processes get the core
constexpr auto kAwake = std::chrono::microseconds(200);  // after a frame, then the thread sleeps

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
void spin_until(Condition done) {
  for (int i = 0; !done(); i++) {
    if (i < kSpins)
      pause();
    else
      sched_yield();
  }
}

}  // namespace

Plan::Plan(int slots, int isa, bool half, int threads)
    : slots(slots), half(half), element_size(half ? 2 : 4), amx(isa == SKP_AMX && half),
      threads_(threads) {
  kernels = isa >= SKP_AVX512BF16 ? kernels_avx512bf16()
            : isa == SKP_AVX512   ? kernels_avx512()
            : isa == SKP_AVX2     ? kernels_avx2()
                                  : kernels_portable();
  typed = &kernels->of[half];
  shares_.reset(new Share[threads]);
  try {
    for (int t = 1; t < threads; t++) pool_.emplace_back([this, t] { serve(t); });
  } catch (...) {  // the system gives no more threads
    end_threads();
    throw;
  }
}

Plan::~Plan() { end_threads(); }

void Plan::end_threads() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread &t : pool_) t.join();
}

void Plan::serve(int thread) {
  int seen = 0;
  for (;;) {
    const auto until = std::chrono::steady_clock::now() + kAwake;
    auto called = [&] { return generation_.load(std::memory_order_acquire) != seen || stop_; };
    for (int i = 0; !called(); i++) {
      pause();
      if (i % 64 || std::chrono::steady_clock::now() < until) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, called);
    }
    if (stop_) return;
    seen++;
    work_loop(thread);
    finished_.fetch_add(1, std::memory_order_release);
  }
}

// A thread that sleeps between frames is woken on the core of who wakes it, where both would share
// the time for milliseconds: the caller's core is left to the caller.
void Plan::keep_apart() {
#ifdef __linux__
  const int cpu = sched_getcpu();
  cpu_set_t allowed;
  if (cpu < 0 || cpu == caller_cpu_ || sched_getaffinity(0, sizeof allowed, &allowed)) return;
  caller_cpu_ = cpu;
  if (CPU_COUNT(&allowed) < threads_) return;
  CPU_CLR(cpu, &allowed);
  for (std::thread &t : pool_) pthread_setaffinity_np(t.native_handle(), sizeof allowed, &allowed);
#endif
}

void Plan::run_phases() {
  if (threads_ > 1) {
    keep_apart();
    finished_.store(0, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }
  work_loop(0);
  if (threads_ > 1)
    spin_until([&] { return finished_.load(std::memory_order_acquire) == threads_ - 1; });
}

void Plan::run_shares(int thread) {
  for (int i = 0; i < threads_; i++) {
    Share &share = shares_[(thread + i) % threads_];
    for (;;) {
      const int at = share.next.fetch_add(1, std::memory_order_relaxed);
      if (at >= share.end) break;
      run_task(tasks_[at], thread);
    }
  }
}

void Plan::work_loop(int thread) {
  if (amx) amx_begin();
  for (;;) {
    const int phase = phase_number_.load(std::memory_order_acquire);
    run_shares(thread);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      // The last one plans what comes next, and does single tasks itself.
      while (next_phase() && tasks_.size() == 1) run_task(tasks_[0], thread);
      arrived_.store(0, std::memory_order_relaxed);
      phase_number_.store(phase + 1, std::memory_order_release);
    } else {
      spin_until([&] { return phase_number_.load(std::memory_order_acquire) != phase; });
    }
    if (phase_ == kDone) break;
  }
  if (amx) amx_end();
}

}  // namespace skp
