// Runs a CUDA kernel on the host: defines what a .cu file needs to compile as C++17 and to be called by `serve`.
//
// Every thread of a block is a fiber with its own stack. A fiber runs until it reaches a barrier, a vote or a shuffle;
// then others run, in an order that the test chooses, until all threads (or lanes) have reached it. So with a missing
// barrier threads read values that are not written yet. Compiled with -fsanitize=thread, each fiber is a thread to the
// sanitizer, and only barriers order their accesses: a data race is reported even if the result is right.
#ifndef GPUBENCH_EMULATION_H  // not #pragma once, which warns when the header is precompiled
#define GPUBENCH_EMULATION_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))
#define DYNAMIC_SHARED(name) unsigned char* const name = emulation::dynamic_shared()

struct uint3 {
    unsigned x, y, z;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

// Those of the running fiber.
extern uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

struct Argument {
    std::size_t n_bytes;
    unsigned char* data;
};

enum class Kind { syncthreads, syncwarp, shuffle, vote };

unsigned char* dynamic_shared();

// Wait for the other threads of the block (syncthreads), or lanes of the warp.
void wait(Kind kind);

// Exchange the values of all 32 lanes. Orders no other memory access.
const std::uint64_t* exchange(unsigned mask, Kind kind, std::uint64_t value);

[[noreturn]] void fail(const char* message);

struct Launch {
    uint3 grid, block;
    std::size_t shared_bytes;
    std::uint64_t schedule;  // order in which threads run: 0 ascending, 1 descending, others random
    std::vector<Argument> arguments;
    void (*call)(const Argument*);
};

void run(Launch&& launch);

// Return zeros that take memory only where they are accessed.
void* reserve(std::size_t n_bytes);

// Read launches from standard input and write the arrays of each to standard output, until the input ends.
int serve(void (*call)(const Argument*), std::size_t n_arguments);

template <typename T>
T unpack(const Argument& argument) {
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<T>(argument.data);
    } else {
        T value;
        if (argument.n_bytes != sizeof value) fail("a scalar has the wrong size");
        std::memcpy(&value, argument.data, sizeof value);
        return value;
    }
}

template <auto KERNEL>
struct Call;

template <typename... Types, void (*KERNEL)(Types...)>
struct Call<KERNEL> {
    static constexpr std::size_t n_arguments = sizeof...(Types);

    static void with(const Argument* arguments) { with_each(arguments, std::index_sequence_for<Types...>{}); }

    template <std::size_t... I>
    static void with_each(const Argument* arguments, std::index_sequence<I...>) {
        KERNEL(unpack<Types>(arguments[I])...);
    }
};

template <typename T>
T shuffle(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t));
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(mask, Kind::shuffle, bits)[source];
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned lane() { return threadIdx.x % 32; }

}  // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::Kind::syncthreads); }
inline void __syncwarp() { emulation::wait(emulation::Kind::syncwarp); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
    return emulation::shuffle(mask, value, static_cast<unsigned>(source) % 32);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
    return emulation::shuffle(mask, value, emulation::lane() ^ static_cast<unsigned>(lane_mask));
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
    const unsigned lane = emulation::lane();
    return emulation::shuffle(mask, value, lane < delta ? lane : lane - delta);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const std::uint64_t* votes = emulation::exchange(mask, emulation::Kind::vote, predicate != 0);
    unsigned lanes = 0;
    for (unsigned lane = 0; lane < 32; ++lane) lanes |= static_cast<unsigned>(votes[lane]) << lane;
    return lanes;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

template <typename T>
T atomicAdd(T* target, T value) {
    return __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

template <typename To, typename From>
To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline unsigned __float_as_uint(float x) { return bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned bits) { return bit_cast<float>(bits); }
inline double __longlong_as_double(long long bits) { return bit_cast<double>(bits); }

inline int min(int a, int b) { return a < b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }

#endif
