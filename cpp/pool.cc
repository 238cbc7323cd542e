#include "pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <pthread.h>

namespace tokloom {
namespace {

constexpr int kSpins = 4000;  // some tens of microseconds: the gap between two kernels of one forward pass

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

struct Job {
  std::size_t count, grain;
  const std::function<void(std::size_t, std::size_t)>* body;

  void part(std::size_t index, std::size_t parts) const {
    const std::size_t chunks = (count + grain - 1) / grain;
    const std::size_t begin = chunks * index / parts * grain;
    const std::size_t end = std::min(count, chunks * (index + 1) / parts * grain);
    if (begin < end) (*body)(begin, end);
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

  void run(const Job& job, int threads) {
    std::lock_guard<std::mutex> one_at_a_time(callers_);
    grow(threads - 1);
    job_ = &job;
    parts_ = static_cast<std::size_t>(threads);
    // Every worker answers, also one without a part: until then none may see the next job's fields.
    pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.part(0, parts_);
    while (pending_.load(std::memory_order_acquire) > 0) relax();
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
      int spins = 0;
      while (generation_.load(std::memory_order_acquire) == seen) {
        if (++spins < kSpins) {
          relax();
          continue;
        }
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      seen = generation_.load(std::memory_order_acquire);
      if (index < parts_) job_->part(index, parts_);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex callers_, mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> pending_{0};
  const Job* job_ = nullptr;
  std::size_t parts_ = 1;
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

void parallel_for(std::size_t count, std::size_t grain, int threads,
                  const std::function<void(std::size_t, std::size_t)>& body) {
  if (threads <= 1 || count <= grain) {
    if (count) body(0, count);
    return;
  }
  const Job job{count, grain, &body};
  if (OpenMp::loaded().parallel) {
    OpenMp::loaded().parallel(
        [](void* data) {
          const OpenMp& openmp = OpenMp::loaded();
          static_cast<const Job*>(data)->part(static_cast<std::size_t>(openmp.thread()),
                                              static_cast<std::size_t>(openmp.threads()));
        },
        const_cast<Job*>(&job), static_cast<unsigned>(threads), 0);
    return;
  }
  Pool::instance().run(job, threads);
}

}  // namespace tokloom
