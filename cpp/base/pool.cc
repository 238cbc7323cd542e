#include "base/pool.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

namespace tokloom {
namespace {

constexpr int kSpins = 2000;     // some tens of microseconds: the gap between two kernels of one forward pass
constexpr int kYields = 400;     // then letting others run: the gap between two passes
constexpr std::size_t kPieces = 8;  // of a thread's share: what another may take over when it is late
constexpr int kMaxThreads = 256;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The first exception of a call's bodies. The caller throws it again when all threads are done; pieces that begin after
// it are left out.
class FirstError {
 public:
  void clear() {
    failed_.store(false, std::memory_order_relaxed);
    error_ = nullptr;
  }

  void call(const Body& body, std::size_t begin, std::size_t end) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      body(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_.store(true, std::memory_order_relaxed);
    }
  }

  void rethrow() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

// One call: each thread's share of the chunks, from which all take pieces.
struct Job {
  struct alignas(64) Share {
    std::atomic<std::size_t> next{0};
    std::size_t end = 0, piece = 1;
  };

  std::size_t count, grain, shares;
  const Body* body;
  Share of[kMaxThreads];
  std::atomic<std::size_t> left;  // chunks not done yet
  FirstError error;

  void begin(std::size_t count_, std::size_t grain_, std::size_t threads, const Body& body_) {
    count = count_, grain = grain_, shares = threads, body = &body_;
    assert(grain > 0 && shares > 0 && shares <= kMaxThreads);
    error.clear();
    const std::size_t chunks = (count + grain - 1) / grain;
    left.store(chunks, std::memory_order_relaxed);
    for (std::size_t i = 0; i < shares; ++i) {
      const std::size_t from = chunks * i / shares, to = chunks * (i + 1) / shares;
      of[i].next.store(from, std::memory_order_relaxed);
      of[i].end = to;
      of[i].piece = std::max<std::size_t>(1, (to - from) / kPieces);
    }
  }

  void work(std::size_t first) {
    for (std::size_t i = 0; i < shares; ++i) {
      Share& share = of[(first + i) % shares];
      for (;;) {
        const std::size_t from = share.next.fetch_add(share.piece, std::memory_order_relaxed);
        if (from >= share.end) break;
        const std::size_t to = std::min(share.end, from + share.piece);
        error.call(*body, from * grain, std::min(count, to * grain));
        left.fetch_sub(to - from, std::memory_order_release);
      }
    }
  }
};

class Pool {
 public:
  static Pool& instance() {
    // Never destroyed: workers may outlive static destructors at interpreter exit. A forked child
    // has none of its parent's threads, so that it starts with a pool of its own.
    static Pool* pool = [] {
      pthread_atfork(nullptr, nullptr, [] { pool_ = new Pool(); });
      return pool_ = new Pool();
    }();
    (void)pool;
    return *pool_;
  }

  // False, and nothing done, while another caller has the pool.
  bool run(std::size_t count, std::size_t grain, int threads, const Body& body) {
    std::unique_lock<std::mutex> mine(callers_, std::try_to_lock);
    if (!mine) return false;
    grow(threads - 1);
    job_.begin(count, grain, static_cast<std::size_t>(threads), body);
    open_.store(true);
    generation_.fetch_add(1);
    if (asleep_.load() > 0) {
      { std::lock_guard<std::mutex> lock(mutex_); }
      wake_.notify_all();
    }
    job_.work(0);
    while (job_.left.load(std::memory_order_acquire) > 0) relax();
    // Whoever is inside has nothing left to take; whoever comes later finds the job closed.
    open_.store(false);
    while (inside_.load() > 0) relax();
    job_.error.rethrow();
    return true;
  }

 private:
  static Pool* pool_;

  void grow(int workers) {
    while (static_cast<int>(workers_.size()) < workers) {
      const std::size_t index = workers_.size() + 1;
      workers_.emplace_back([this, index, seen = generation_.load()]() mutable { work(index, seen); });
      workers_.back().detach();
    }
  }

  void work(std::size_t index, unsigned seen) {
    for (;;) {
      for (int idle = 0; generation_.load(std::memory_order_acquire) == seen; ++idle) {
        if (idle < kSpins) {
          relax();
        } else if (idle < kSpins + kYields) {
          sched_yield();
        } else {
          std::unique_lock<std::mutex> lock(mutex_);
          asleep_.fetch_add(1);
          wake_.wait(lock, [&] { return generation_.load() != seen; });
          asleep_.fetch_sub(1);
        }
      }
      seen = generation_.load(std::memory_order_acquire);
      inside_.fetch_add(1);
      if (open_.load() && index < job_.shares) job_.work(index);
      inside_.fetch_sub(1);
    }
  }

  std::mutex callers_, mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> inside_{0}, asleep_{0};
  std::atomic<bool> open_{false};
  Job job_;
  std::vector<std::thread> workers_;
};

Pool* Pool::pool_ = nullptr;

// The part of an OpenMP runtime that compiled code calls; libgomp's and libomp's are alike.
struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread)() = nullptr;
  int (*threads)() = nullptr;

  static const OpenMp& loaded() {
    static const OpenMp found = [] {
      OpenMp symbols;
      symbols.parallel = reinterpret_cast<decltype(symbols.parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
      symbols.thread = reinterpret_cast<decltype(symbols.thread)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
      symbols.threads = reinterpret_cast<decltype(symbols.threads)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
      if (!symbols.thread || !symbols.threads) symbols.parallel = nullptr;
      return symbols;
    }();
    return found;
  }
};

}  // namespace

void parallel_for(std::size_t count, std::size_t grain, int threads, const Body& body) {
  if (count == 0) return;
  if (threads <= 1 || count <= grain || !Pool::instance().run(count, grain, std::min(threads, kMaxThreads), body))
    body(0, count);
}

void parallel_for_torch(std::size_t count, std::size_t grain, int threads, const Body& body) {
  const OpenMp& openmp = OpenMp::loaded();
  if (!openmp.parallel || threads <= 1 || count <= grain) return parallel_for(count, grain, threads, body);
  struct Split {
    std::size_t count, grain;
    const Body* body;
    FirstError* error;
  };
  FirstError error;
  Split split{count, grain, &body, &error};
  openmp.parallel(
      [](void* data) {
        const Split& of = *static_cast<const Split*>(data);
        const auto part = static_cast<std::size_t>(OpenMp::loaded().thread());
        const auto parts = static_cast<std::size_t>(OpenMp::loaded().threads());
        const std::size_t chunks = (of.count + of.grain - 1) / of.grain;
        const std::size_t begin = chunks * part / parts * of.grain;
        const std::size_t end = std::min(of.count, chunks * (part + 1) / parts * of.grain);
        if (begin < end) of.error->call(*of.body, begin, end);
      },
      &split, static_cast<unsigned>(threads), 0);
  error.rethrow();
}

}  // namespace tokloom
