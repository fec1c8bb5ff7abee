// A kernel's source, compiled with -DSOURCE="NAME.cu" -DKERNEL=NAME and the defines of a variant, and run block by block.
#include <algorithm>

#include "emulation.h"

#include SOURCE

extern "C" int job_size() { return sizeof(Job); }

// Returns 0 when done, 1 on a deadlock. With a seed, threads and blocks run in random order.
extern "C" int run(const void *job, unsigned blocks, unsigned threads, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<unsigned> order(blocks);
    std::iota(order.begin(), order.end(), 0);
    if (seed) std::shuffle(order.begin(), order.end(), random);
    for (unsigned number : order) {
        blockIdx = {number, 0, 0};
        auto body = [](const void *argument) { KERNEL(*(const Job *)argument); };
        if (!run_block(threads, seed ? &random : nullptr, body, job)) return 1;
    }
    return 0;
}
