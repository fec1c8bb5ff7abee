// Storage of numbers, and loads and stores that convert them from and to float32.
//
// No CUDA header is included, so that the source compiles wherever NVRTC is installed, and as C++ for the CPU, where
// `emulation.h` of the tests emulates the device. Code that differs between the two depends on __CUDA_ARCH__.
#pragma once

#define FLOAT32 0
#define FLOAT16 1
#define BFLOAT16 2

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

// Dynamic shared memory, whose size is given at the launch.
#ifdef __CUDA_ARCH__
#define SHARED_TO_THE_END(type, name) extern __shared__ type name[]
#else
#define SHARED_TO_THE_END(type, name) type *name = (type *)emulated_shared
#endif

#define NAN_ float_of(0x7fc00000u)
#define INFINITY_ float_of(0x7f800000u)

__device__ __forceinline__ float float_of(u32 bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    return emulated_float_of(bits);
#endif
}

__device__ __forceinline__ u32 bits_of(float number) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(number);
#else
    return emulated_bits_of(number);
#endif
}

// 1 / number, accurate to about one unit in the last place, for numbers that are neither tiny nor huge.
__device__ __forceinline__ float reciprocal(float number) {
#ifdef __CUDA_ARCH__
    float guess;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(guess) : "f"(number));
    return fmaf(guess, fmaf(-number, guess, 1.f), guess);  // a division would be a call
#else
    return 1.f / number;
#endif
}

template <int KIND> struct Stored;  // type: storage of a number; widen: from its bits to float32; narrow: back

template <> struct Stored<FLOAT32> {
    typedef float type;
    static __device__ __forceinline__ float widen(u32 bits) { return float_of(bits); }
    static __device__ __forceinline__ u32 narrow(float number) { return bits_of(number); }
};

template <> struct Stored<FLOAT16> {
    typedef u16 type;
    static __device__ __forceinline__ float widen(u32 bits) {
#ifdef __CUDA_ARCH__
        float number;
        asm("{.reg .b16 half; cvt.u16.u32 half, %1; cvt.f32.f16 %0, half;}" : "=f"(number) : "r"(bits));
        return number;
#else
        return emulated_from_half(bits);
#endif
    }
    static __device__ __forceinline__ u32 narrow(float number) {
#ifdef __CUDA_ARCH__
        u32 bits;
        asm("{.reg .b16 half; cvt.rn.f16.f32 half, %1; cvt.u32.u16 %0, half;}" : "=r"(bits) : "f"(number));
        return bits;
#else
        return emulated_to_half(number);
#endif
    }
};

template <> struct Stored<BFLOAT16> {
    typedef u16 type;
    static __device__ __forceinline__ float widen(u32 bits) { return float_of(bits << 16); }
    static __device__ __forceinline__ u32 narrow(float number) {  // to nearest, ties to even; NaN stays NaN
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        u32 bits;
        asm("{.reg .b16 half; cvt.rn.bf16.f32 half, %1; cvt.u32.u16 %0, half;}" : "=r"(bits) : "f"(number));
        return bits;
#else
        const u32 bits = bits_of(number);
        if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
        return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
#endif
    }
};

template <int BYTES> struct Words;  // memory that one instruction loads or stores
template <> struct alignas(16) Words<16> { u32 word[4]; };
template <> struct alignas(8) Words<8> { u32 word[2]; };
template <> struct alignas(4) Words<4> { u32 word[1]; };
template <> struct alignas(2) Words<2> { u16 word[1]; };

template <int BYTES> __device__ __forceinline__ Words<BYTES> read_words(const void *address) {
    // Through the read-only path: a kernel never writes memory that it reads this way.
    Words<BYTES> words;
#ifdef __CUDA_ARCH__
    if constexpr (BYTES == 16)
        asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words.word[0]), "=r"(words.word[1]), "=r"(words.word[2]), "=r"(words.word[3])
                     : "l"(address));
    else if constexpr (BYTES == 8)
        asm("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(words.word[0]), "=r"(words.word[1]) : "l"(address));
    else if constexpr (BYTES == 4)
        asm("ld.global.nc.u32 %0, [%1];" : "=r"(words.word[0]) : "l"(address));
    else
        asm("ld.global.nc.u16 %0, [%1];" : "=h"(words.word[0]) : "l"(address));
#else
    words = *(const Words<BYTES> *)address;
#endif
    return words;
}

// COUNT adjacent numbers, aligned to their total size, which is at most 16 bytes.
template <int KIND, int COUNT> struct Row {
    typedef typename Stored<KIND>::type Item;
    static constexpr int BYTES = COUNT * (int)sizeof(Item);

    static __device__ __forceinline__ void load(const Item *address, float (&numbers)[COUNT]) {
        const Words<BYTES> words = read_words<BYTES>(address);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if constexpr (sizeof(Item) == 4)
                numbers[i] = Stored<KIND>::widen(words.word[i]);
            else if constexpr (COUNT == 1)
                numbers[i] = Stored<KIND>::widen(words.word[0]);
            else if constexpr (KIND == BFLOAT16)  // the upper half is already where float32 has it
                numbers[i] = float_of(i % 2 ? words.word[i / 2] & 0xffff0000u : words.word[i / 2] << 16);
            else
                numbers[i] = Stored<KIND>::widen(i % 2 ? words.word[i / 2] >> 16 : words.word[i / 2] & 0xffffu);
        }
    }

    static __device__ __forceinline__ void store(Item *address, const float (&numbers)[COUNT]) {
        Words<BYTES> words;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const u32 bits = Stored<KIND>::narrow(numbers[i]);
            if constexpr (sizeof(Item) == 4)
                words.word[i] = bits;
            else if constexpr (COUNT == 1)
                words.word[0] = (u16)bits;
            else
                words.word[i / 2] = i % 2 ? words.word[i / 2] | (bits << 16) : bits;
        }
        *(Words<BYTES> *)address = words;
    }
};
