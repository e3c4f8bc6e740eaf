// Code shared by all kernels: index types, sums over lanes, and the candidates of a neighbour search.
//
// It is prepended to the text of every kernel instead of included, so that the cache key of a compiled kernel covers
// it. It includes nothing, because NVRTC has no headers and the tests compile the same text for the host.
//
// Every kernel loops over its work with the stride of the grid, so any grid gives the same result. Blocks consist of
// whole warps.

// A position in an array. 32 bits are not enough: 13,000,000 cells x 512 dimensions are 6.7e9 values.
using Index = long long;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

__device__ inline int lane() { return static_cast<int>(threadIdx.x % WARP); }

__device__ inline int warp_in_block() { return static_cast<int>(threadIdx.x / WARP); }

__device__ inline Index thread_in_grid() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ inline Index threads_in_grid() { return static_cast<Index>(gridDim.x) * blockDim.x; }

__device__ inline Index warp_in_grid() { return thread_in_grid() / WARP; }

__device__ inline Index warps_in_grid() { return threads_in_grid() / WARP; }

// Return, to every lane, the sum over its group of WIDTH adjacent lanes. The order of the additions is fixed.
template <int WIDTH, typename T>
__device__ inline T sum_of_lanes(T value) {
    for (int step = WIDTH / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

// CUDA has 64-bit atomic addition for unsigned integers only, which is the same operation in two's complement.
__device__ inline void atomic_add(long long* target, long long value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}

// A candidate neighbour: a float32 key and the id of a cell, packed so that integers compare as (key, id). All
// candidates of a row differ, so the best of them are uniquely determined.
using Candidate = unsigned long long;

// Compares greater than every candidate: a key of infinity. As a limit everything passes it; as an entry it is empty.
[[maybe_unused]] constexpr Candidate NO_CANDIDATE = 0xff800000ffffffffull;

__device__ inline Candidate candidate(float key, Index id) {
    const unsigned bits = __float_as_uint(key + 0.0f);  // -0 becomes +0: equal keys have equal bits
    const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<Candidate>(ordered) << 32 | static_cast<Candidate>(id);
}

__device__ inline float key_of(Candidate c) {
    const unsigned ordered = static_cast<unsigned>(c >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ inline int id_of(Candidate c) { return static_cast<int>(c & 0xffffffffu); }

// Return the squared Euclidean distance of two float32 rows, summed in float64 by a group of SEARCH_LANES lanes, which
// read one 32-byte sector at a time. The order of the additions is fixed, so equal rows have equal distances.
constexpr int SEARCH_LANES = 8;

__device__ inline double squared_distance(const float* a, const float* b, int d) {
    double total = 0.0;
#pragma unroll 4
    for (int t = lane() % SEARCH_LANES; t < d; t += SEARCH_LANES) {
        const double difference = static_cast<double>(a[t]) - static_cast<double>(b[t]);
        total += difference * difference;
    }
    return sum_of_lanes<SEARCH_LANES>(total);
}

// Whether a neighbour precedes another one: by distance, then by id.
__device__ inline bool closer(double squared, int id, double other_squared, int other_id) {
    return squared < other_squared || (squared == other_squared && id < other_id);
}

// Sort `size` neighbours in shared memory by (distance, id) with a bitonic sort; size is a power of two. All threads of
// the block must call it, after a barrier that follows the last write; it ends with a barrier.
__device__ inline void sort_neighbors(double* squared, int* ids, int size) {
    for (int span = 2; span <= size; span *= 2) {
        for (int step = span / 2; step > 0; step /= 2) {
            for (int pair = static_cast<int>(threadIdx.x); pair < size / 2; pair += static_cast<int>(blockDim.x)) {
                const int i = 2 * pair - pair % step;
                const int j = i + step;
                const bool ascending = (i & span) == 0;
                if (closer(squared[j], ids[j], squared[i], ids[i]) == ascending) {
                    const double farther = squared[i];
                    const int farther_id = ids[i];
                    squared[i] = squared[j];
                    ids[i] = ids[j];
                    squared[j] = farther;
                    ids[j] = farther_id;
                }
            }
            __syncthreads();
        }
    }
}

// The largest id: padding when neighbours are sorted. No cell has it.
[[maybe_unused]] constexpr int NO_CELL = 0x7fffffff;

__device__ inline double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }
