// Splits the work of a kernel over threads; the caller takes part.
#pragma once

#include <cstddef>
#include <functional>

namespace tokloom {

using Body = std::function<void(std::size_t, std::size_t)>;

// Calls body(begin, end) on disjoint ranges that cover [0, count), on at most `threads` threads, from a pool of our own.
// Ranges begin at multiples of `grain`. What a body throws first is thrown again to the caller, after all threads are
// done; ranges that had not begun are left out then.
//
// Free threads take ranges piece by piece, and no thread waits for one that has not begun. So a descheduled thread does
// not stall a pass on a busy machine. While one caller has the pool, the calls of others run on their own thread: several
// requests at once share the cores instead of queueing for them.
void parallel_for(std::size_t count, std::size_t grain, int threads, const Body& body);

// The same on torch's threads, for work between torch's own operations: two sets of threads that wait actively for their
// next piece of work would take the cores from each other. The OpenMP runtime is looked up, not linked, because torch's
// copy goes by a name of its own; without it, `parallel_for`.
void parallel_for_torch(std::size_t count, std::size_t grain, int threads, const Body& body);

// Either of the two.
using ParallelFor = void (*)(std::size_t, std::size_t, int, const Body&);

}  // namespace tokloom
