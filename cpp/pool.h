// Splits the work of a kernel over threads; the caller takes part.
//
// On torch's own threads where it has brought an OpenMP runtime into the process: two sets of threads
// that wait actively for their next piece of work would take the cores from each other. The runtime is
// looked up, not linked, because torch's copy goes by a name of its own. Without it, on a small pool.
#pragma once

#include <cstddef>
#include <functional>

namespace tokloom {

// Calls body(begin, end) on disjoint ranges that cover [0, count), on at most `threads` threads.
// Ranges begin at multiples of `grain`. Calls from several threads run one after the other.
void parallel_for(std::size_t count, std::size_t grain, int threads,
                  const std::function<void(std::size_t, std::size_t)>& body);

}  // namespace tokloom
