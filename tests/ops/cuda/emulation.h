// Emulation of the device on the CPU: one block at a time, with its threads as fibers that switch at barriers and
// exchanges, so that warps run in lock step. Races, misaligned accesses and memory order are not detected; a barrier
// that not all threads reach is, and shared memory is initialised with NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static __attribute__((section("block_shared")))

using std::fmaf;

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx;

static char emulated_shared[1 << 18] __attribute__((aligned(16), used, section("block_shared")));
extern char __start_block_shared[], __stop_block_shared[];

static inline float emulated_float_of(uint32_t bits) {
    float number;
    memcpy(&number, &bits, 4);
    return number;
}
static inline uint32_t emulated_bits_of(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    return bits;
}
static inline float emulated_from_half(uint32_t bits) {
    const uint16_t low = (uint16_t)bits;
    _Float16 half;
    memcpy(&half, &low, 2);
    return (float)half;
}
static inline uint32_t emulated_to_half(float number) {
    const _Float16 half = (_Float16)number;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}
static inline long long __float2ll_rn(float number) { return llrintf(number); }
static inline float __ll2float_rn(long long number) { return (float)number; }

template <typename T> static inline T atomicAdd(T *place, T number) {
    const T before = *place;
    *place = before + number;
    return before;
}

enum Wait { RUNS, BLOCK, WARP, ENDED };

struct Fiber {
    ucontext_t start;
    jmp_buf here;
    bool started;
    Wait wait;
    uint32_t given;
    std::vector<char> stack;
};

struct Block {
    std::vector<Fiber> fibers;
    jmp_buf scheduler;
    unsigned current;
    void (*body)(const void *);
    const void *argument;
};
static Block block;

static inline void wait_at(Wait barrier) {
    Fiber &fiber = block.fibers[block.current];
    fiber.wait = barrier;
    if (_setjmp(fiber.here) == 0) _longjmp(block.scheduler, 1);
}

static inline void __syncthreads() { wait_at(BLOCK); }
static inline void __syncwarp() { wait_at(WARP); }

static inline float __shfl_xor_sync(unsigned, float number, int mask) {
    const unsigned me = block.current;
    block.fibers[me].given = emulated_bits_of(number);
    wait_at(WARP);
    const float taken = emulated_float_of(block.fibers[me ^ (unsigned)mask].given);
    wait_at(WARP);  // no thread overwrites its value before all have read theirs
    return taken;
}

static void begin_fiber() {
    block.body(block.argument);
    block.fibers[block.current].wait = ENDED;
    _longjmp(block.scheduler, 1);
}

static void resume(unsigned number) {
    block.current = number;
    threadIdx = {number, 0, 0};
    if (_setjmp(block.scheduler)) return;
    Fiber &fiber = block.fibers[number];
    if (fiber.started) _longjmp(fiber.here, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

// Resumes the `count` threads from `first` on if all of them that have not ended wait at the barrier.
static bool release(unsigned first, unsigned count, Wait barrier) {
    bool waiting = false;
    for (unsigned i = first; i < first + count; i++) {
        if (block.fibers[i].wait == ENDED) continue;
        if (block.fibers[i].wait != barrier) return false;
        waiting = true;
    }
    for (unsigned i = first; i < first + count; i++)
        if (block.fibers[i].wait == barrier) block.fibers[i].wait = RUNS;
    return waiting;
}

// Returns false on a deadlock.
static bool run_block(unsigned threads, std::mt19937 *shuffle, void (*body)(const void *), const void *argument) {
    memset(__start_block_shared, 0xff, __stop_block_shared - __start_block_shared);
    block.body = body;
    block.argument = argument;
    block.fibers.resize(threads);
    for (Fiber &fiber : block.fibers) {
        fiber.stack.resize(1 << 15);
        fiber.started = false;
        fiber.wait = RUNS;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.data();
        fiber.start.uc_stack.ss_size = fiber.stack.size();
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, begin_fiber, 0);
    }
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0);
    for (;;) {
        if (shuffle) std::shuffle(order.begin(), order.end(), *shuffle);
        bool moved = false, alive = false;
        for (unsigned number : order) {
            if (block.fibers[number].wait != RUNS) continue;
            resume(number);
            moved = true;
        }
        for (unsigned first = 0; first < threads; first += 32) moved |= release(first, 32, WARP);
        moved |= release(0, threads, BLOCK);
        for (const Fiber &fiber : block.fibers) alive |= fiber.wait != ENDED;
        if (!alive) return true;
        if (!moved) return false;
    }
}
