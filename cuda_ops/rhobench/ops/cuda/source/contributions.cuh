// Sums of the contributions to the gradient of the value: in float32, in an arbitrary order, or, compiled with
// DETERMINISTIC, in integers, whose sum is the same in every order.
#pragma once

#include "samples.cuh"

#if DETERMINISTIC
typedef u64 Sum;

// The largest power of two by which contributions can be multiplied so that no sum of them overflows an int64.
struct Unit {
    int power;
    float first, second;  // two factors, since their product may exceed the range of float32

    __device__ __forceinline__ explicit Unit(int power)
        : power(power), first(two_to_the(power / 2)), second(two_to_the(power - power / 2)) {}
    __device__ __forceinline__ explicit Unit(const Job &job)
        : Unit(62 - job.headroom - ((int)(bits_of(*job.largest) >> 23 & 255u) - 126)) {}  // largest < 2**(bits - 126)

    __device__ __forceinline__ Unit inverse() const { return Unit(-power); }
    static __device__ __forceinline__ float two_to_the(int power) { return float_of((u32)(power + 127) << 23); }
};

template <int COUNT>
__device__ __forceinline__ void add_row(Sum *sums, const float (&numbers)[COUNT], float factor, const Unit &unit) {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        atomicAdd(sums + i, (u64)__float2ll_rn(numbers[i] * factor * unit.first * unit.second));
}
#else
typedef float Sum;

struct Unit {
    __device__ __forceinline__ explicit Unit(const Job &) {}
};

template <int COUNT>
__device__ __forceinline__ void add_row(Sum *sums, const float (&numbers)[COUNT], float factor, const Unit &) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    constexpr int VECTORS = COUNT / 4 * 4;  // four at a time; the remaining ones are added one by one
#pragma unroll
    for (int i = 0; i < VECTORS; i += 4)
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(sums + i), "f"(numbers[i] * factor),
                     "f"(numbers[i + 1] * factor), "f"(numbers[i + 2] * factor), "f"(numbers[i + 3] * factor)
                     : "memory");
#else
    constexpr int VECTORS = 0;
#endif
#pragma unroll
    for (int i = VECTORS; i < COUNT; i++) atomicAdd(sums + i, numbers[i] * factor);
}
#endif

// Destination of the contributions of a block: global memory, or first shared memory for the last COARSE levels.
struct Target {
    Sum *sums;  // of the block's image and head
    int stride;  // numbers from one pixel to the next
    Unit unit;
    float *on_chip;  // (pixels of the last COARSE levels, WIDTH)
    int coarse_start;

    __device__ __forceinline__ Target(const Job &job, int image, int head, float *on_chip)
        : sums((Sum *)job.grad_value + ((long long)image * job.pixels * job.heads + head) * WIDTH),
          stride(job.heads * WIDTH), unit(job), on_chip(on_chip),
          coarse_start(COARSE ? job.levels[LEVELS - COARSE].first_pixel : job.pixels) {}

    template <int COUNT>
    __device__ __forceinline__ void add(
        int k, int pixel, int channel, const float (&numbers)[COUNT], float factor) const {
#if COARSE
        if (k >= (LEVELS - COARSE) * POINTS) {
#pragma unroll
            for (int i = 0; i < COUNT; i++)
                atomicAdd(on_chip + (pixel - coarse_start) * WIDTH + channel + i, numbers[i] * factor);
            return;
        }
#endif
        add_row(sums + (long long)pixel * stride + channel, numbers, factor, unit);
    }

    __device__ __forceinline__ void clear(const Job &job) const {
        for (int i = threadIdx.x; i < (job.pixels - coarse_start) * WIDTH; i += THREADS) on_chip[i] = 0.f;
    }

    __device__ __forceinline__ void flush(const Job &job) const {
        constexpr int COUNT = WIDTH % 4 ? 1 : 4;
        for (int i = threadIdx.x * COUNT; i < (job.pixels - coarse_start) * WIDTH; i += THREADS * COUNT) {
            float numbers[COUNT];
            bool any = false;
#pragma unroll
            for (int j = 0; j < COUNT; j++) any |= (numbers[j] = on_chip[i + j]) != 0.f;
            if (any) add_row(sums + (long long)(coarse_start + i / WIDTH) * stride + i % WIDTH, numbers, 1.f, unit);
        }
    }
};
