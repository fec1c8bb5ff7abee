// Positions of the samples of a tile of queries for one head, computed once by one thread for each sample and kept in
// shared memory for the threads that gather. Deformable DETR, eq. 3 and appendix A.3.
//
// Compile-time constants: VALUE, FIRST, SECOND (storage of the tensors), WIDTH (channels of a head), LEVELS, POINTS,
// FUSED (offsets from references and logits instead of locations and weights), SPATIAL (the queries are the pixels of
// all levels, in order), TILE (queries of a block), THREADS.
#pragma once

#include "stored.cuh"

constexpr int SAMPLES = LEVELS * POINTS;

// The smallest power of two that is at least number, but at most most.
__device__ constexpr int power_of_two_up_to(int number, int most) {
    int power = 1;
    while (power < number && power < most) power *= 2;
    return power;
}

// The largest power of two that divides width, at most 16 bytes.
__device__ constexpr int numbers_at_once(int width, int size) {
    int count = 16 / size;
    while (width % count) count /= 2;
    return count;
}

__device__ constexpr int larger(int one, int other) { return one > other ? one : other; }

typedef Stored<VALUE>::type Value;
typedef Stored<FIRST>::type First;
typedef Stored<SECOND>::type Second;

constexpr int VECTOR = numbers_at_once(WIDTH, sizeof(Value));  // channels that a thread reads with one instruction
constexpr int A_WARP = TILE < 32 ? 32 / TILE : 1;              // minimum number of threads of a query, for whole warps
constexpr int LANES = larger(power_of_two_up_to(WIDTH / VECTOR, 32), A_WARP);  // threads that share a head's channels
constexpr int PARTS = (WIDTH / VECTOR + LANES - 1) / LANES;    // vectors of a thread
constexpr int GROUPS = THREADS / LANES;                        // queries that a block works on at a time
constexpr int PLACERS = larger(power_of_two_up_to(SAMPLES, 32), A_WARP);  // threads that place the samples of a query
constexpr int PLACED_EACH = (SAMPLES + PLACERS - 1) / PLACERS;
// Minimum number of blocks on a multiprocessor. Without it the compiler saves registers until it has to spill some; and
// the more blocks there are, the more shared memory they take from the L1 cache.
constexpr int BLOCKS = 2;
static_assert(THREADS % 32 == 0 && TILE % GROUPS == 0 && TILE * PLACERS % 32 == 0, "whole warps take every step");

struct Level {
    int first_pixel, height, width;
    int first_tile, tiles_across;  // with SPATIAL
    int unused;
};

struct Job {
    const Value *value;            // (N, S, H, D)
    const First *first;            // (N, Q, H, L, P, 2)
    const Second *second;          // (N, Q, H, L, P)
    const float *reference;        // (N or 1, R, L, 2 or 4)
    const long long *query_index;  // (N, Q): rows of reference; null: row q for query q
    Value *output;                 // (N, Q, H, D)
    const Value *grad_output;
    void *grad_value;              // initially zero, (N, S, H, D): float32, or int64 with DETERMINISTIC
    First *grad_first;
    Second *grad_second;
    float *grad_reference;         // (N, H, Q, L, 2 or 4), or null
    const float *largest;          // with DETERMINISTIC: upper bound of the contributions to grad_value
    long long reference_step;      // stride of the references from image to image, in numbers; 0: shared
    int references, reference_size;
    int images, pixels, heads, queries;
    int tiles, tiles_each;          // tiles of an image; tiles of a block in the backward kernel
    int headroom;                  // with DETERMINISTIC: at most 2**headroom contributions are added to one number
    int unused;
    Level levels[LEVELS];
};

template <typename Item> struct alignas(16) Quad {
    Item top_left, top_right, bottom_left, bottom_right;
};

// A sample is at given * (scale + scale_rest) + (base + base_rest) pixels. Each number comes with its rounding error,
// since float32 has too few digits for positions between two pixels of a large map.
struct Axis {
    float base, base_rest, scale, scale_rest;
};

struct Sides {  // the two pixels next to a sample along an axis
    int first, second;               // always on the map
    float first_share, second_share;  // 0 for a pixel outside the map
    bool first_on, second_on;
};

struct Sample {
    Sides x, y;
    float weight;
    float scale_x, scale_y;  // pixels by which it moves if the given number changes by 1
};

// The query in a slot of a tile, or -1. With SPATIAL a tile is a rectangle of one level, whose samples share pixels.
__device__ __forceinline__ int query_at(const Job &job, int tile, int slot) {
#if SPATIAL
    constexpr int ACROSS = TILE >= 32 ? 8 : TILE >= 8 ? 4 : TILE >= 2 ? 2 : 1;
    constexpr int DOWN = TILE / ACROSS;
    int level = 0;
#pragma unroll
    for (int i = 1; i < LEVELS; i++)
        if (tile >= job.levels[i].first_tile) level = i;
    const int number = tile - job.levels[level].first_tile, tiles_across = job.levels[level].tiles_across;
    const int y = number / tiles_across * DOWN + slot / ACROSS, x = number % tiles_across * ACROSS + slot % ACROSS;
    const bool inside = y < job.levels[level].height && x < job.levels[level].width;
    return inside ? job.levels[level].first_pixel + y * job.levels[level].width + x : -1;
#else
    const int query = tile * TILE + slot;
    return query < job.queries ? query : -1;
#endif
}

__device__ __forceinline__ Axis axis_of(const Job &job, const float *reference, int axis, float extent) {
#if FUSED
    const float product = reference[axis] * extent;
    Axis placed;
    placed.base = product - 0.5f;
    placed.base_rest = (product - placed.base - 0.5f) + fmaf(reference[axis], extent, -product);
    placed.scale = 1.f;
    placed.scale_rest = 0.f;
    if (job.reference_size == 4) {  // an offset of POINTS is half the box
        const float half = 0.5f * extent, step = half * (1.f / POINTS);
        const float step_rest = fmaf(-step, (float)POINTS, half) * (1.f / POINTS);
        placed.scale = reference[2 + axis] * step;
        placed.scale_rest = fmaf(reference[2 + axis], step, -placed.scale) + reference[2 + axis] * step_rest;
    }
    return placed;
#else
    return {-0.5f, 0.f, extent, 0.f};
#endif
}

__device__ __forceinline__ Sides sides_of(float given, Axis axis, float extent) {
    const float position = fmaf(given, axis.scale, axis.base);
    const float lower = floorf(fminf(fmaxf(position, -2.f), extent));  // clipped to where both pixels are just outside
    // A NaN coordinate makes the weights NaN: 0 times NaN is NaN.
    const float fraction =
        fmaf(given, axis.scale, axis.base - lower) + fmaf(given, axis.scale_rest, axis.base_rest);
    Sides sides;
    sides.first_on = lower >= 0.f && lower < extent;
    sides.second_on = lower >= -1.f && lower < extent - 1.f;
    sides.first = (int)fminf(fmaxf(lower, 0.f), extent - 1.f);
    sides.second = (int)fminf(fmaxf(lower + 1.f, 0.f), extent - 1.f);
    sides.first_share = (1.f - fraction) * (sides.first_on ? 1.f : 0.f);
    sides.second_share = fraction * (sides.second_on ? 1.f : 0.f);
    return sides;
}

// Softmax over the samples of a query, which are distributed over PLACERS neighbouring threads.
__device__ __forceinline__ void softmax(float (&logits)[PLACED_EACH]) {
    float largest = logits[0], total = 0.f;
#pragma unroll
    for (int i = 1; i < PLACED_EACH; i++) largest = fmaxf(largest, logits[i]);
#pragma unroll
    for (int step = PLACERS / 2; step; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
#pragma unroll
    for (int i = 0; i < PLACED_EACH; i++) total += logits[i] = expf(logits[i] - largest);
#pragma unroll
    for (int step = PLACERS / 2; step; step /= 2) total += __shfl_xor_sync(~0u, total, step);
    const float share = reciprocal(total);
#pragma unroll
    for (int i = 0; i < PLACED_EACH; i++) logits[i] *= share;
}

// Calls keep(k, slot, sample) for each sample of each query of a tile; every thread of the block takes part. Slots
// without a query get samples of weight 0 at pixel 0.
template <typename Keep>
__device__ __forceinline__ void place_samples(const Job &job, int image, int head, int tile, Keep keep) {
    for (int task = threadIdx.x; task < TILE * PLACERS; task += THREADS) {
        const int slot = task / PLACERS, lane = task % PLACERS;
        const int query = query_at(job, tile, slot);
        const long long of_image = (long long)image * job.queries + (query < 0 ? 0 : query);
        const long long at = (of_image * job.heads + head) * SAMPLES;
        float weight[PLACED_EACH];
#pragma unroll
        for (int i = 0; i < PLACED_EACH; i++) {
            const int k = lane + i * PLACERS;
            const bool exists = k < SAMPLES && query >= 0;
            float number[1] = {FUSED ? -INFINITY_ : 0.f};
            if (exists) Row<SECOND, 1>::load(job.second + at + k, number);
            weight[i] = number[0];
        }
#if FUSED
        softmax(weight);
        const long long row = job.query_index && query >= 0 ? job.query_index[of_image] : query;
        const bool known = row >= 0 && row < job.references;  // samples of an unknown row become NaN
#endif
#pragma unroll
        for (int i = 0; i < PLACED_EACH; i++) {
            const int k = lane + i * PLACERS;
            if (k >= SAMPLES) continue;
            Sample sample = {};
            if (query >= 0) {
                float given[2];
                Row<FIRST, 2>::load(job.first + 2 * (at + k), given);
                const int level = k / POINTS;
                const float width = (float)job.levels[level].width, height = (float)job.levels[level].height;
                const float *reference = nullptr;
#if FUSED
                reference = job.reference + image * job.reference_step +
                            ((known ? row : 0) * LEVELS + level) * job.reference_size;
                if (!known) given[0] = given[1] = NAN_;
#endif
                const Axis x = axis_of(job, reference, 0, width), y = axis_of(job, reference, 1, height);
                sample = {sides_of(given[0], x, width), sides_of(given[1], y, height), weight[i], x.scale, y.scale};
            }
            keep(k, slot, sample);
        }
    }
}

// Address of a row of the value: ``pixel`` rows of ``stride`` bytes after ``start``, in one instruction.
__device__ __forceinline__ const Value *row_at(const Value *start, int pixel, u32 stride) {
    return (const Value *)((const char *)start + (u64)(u32)pixel * stride);
}

__device__ __forceinline__ Quad<int> corners_of(const Job &job, int k, const Sample &sample) {
    const Level &level = job.levels[k / POINTS];
    const int top = level.first_pixel + sample.y.first * level.width;
    const int bottom = level.first_pixel + sample.y.second * level.width;
    return {top + sample.x.first, top + sample.x.second, bottom + sample.x.first, bottom + sample.x.second};
}
