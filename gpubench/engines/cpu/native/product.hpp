// Squared Euclidean distances between ROWS x COLUMNS cells in registers: few enough to fit, enough that every loaded
// value is used several times. Both sides are packed so that the inner loop reads memory in order.
//
// Everything here is compiled once for each instruction set; compiled.py loads the best one that the processor
// supports.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8, VECTORS = 3;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 4, VECTORS = 3;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 8, VECTORS = 3;
#else
constexpr int LANES = 4, ROWS = 4, VECTORS = 3;
#endif
constexpr int COLUMNS = LANES * VECTORS;

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
typedef Vector Tile[ROWS][VECTORS];

inline Vector load(const float* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

inline Vector everywhere(float value) { return value - Vector{}; }

// Bit l is set if lane l of a is below lane l of b.
inline uint64_t below(Vector a, Vector b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
#elif defined(__AVX2__)
    return uint64_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ)));
#elif defined(__aarch64__)
    const uint32x4_t bit_of_lane = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcltq_f32((float32x4_t)a, (float32x4_t)b), bit_of_lane));
#else
    uint64_t bits = 0;
    for (int lane = 0; lane < LANES; ++lane) bits |= uint64_t(a[lane] < b[lane]) << lane;
    return bits;
#endif
}

inline Vector root(Vector v) {
#if defined(__AVX512F__)
    return (Vector)_mm512_maskz_sqrt_ps(0xffff, (__m512)v);
#elif defined(__AVX2__)
    return (Vector)_mm256_sqrt_ps((__m256)v);
#elif defined(__aarch64__)
    return (Vector)vsqrtq_f32((float32x4_t)v);
#else
    for (int lane = 0; lane < LANES; ++lane) v[lane] = std::sqrt(v[lane]);
    return v;
#endif
}

int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Pack (n, d) rows in groups of `width`: out[group][p][i]. Missing rows are 0.
void pack(const float* rows, int64_t n, int64_t d, int width, float factor, float* out) {
    for (int64_t first = 0; first < n; first += width, out += width * d) {
        for (int i = 0; i < width; ++i) {
            const float* row = rows + (first + i) * d;
            for (int64_t p = 0; p < d; ++p) out[p * width + i] = first + i < n ? factor * row[p] : 0.0f;
        }
    }
}

// Rows of one side of a tile, packed for the product: -2 x in groups of ROWS, and |x|^2. The memory is reused for each
// tile, because new memory would cost more than the copy.
struct Left {
    std::vector<float> rows, squares;

    void fill(const float* x, const float* x_squares, int64_t n, int64_t d) {
        rows.resize(rounded_up(n, ROWS) * d);
        squares.assign(rounded_up(n, ROWS), 0.0f);
        pack(x, n, d, ROWS, -2.0f, rows.data());
        std::copy(x_squares, x_squares + n, squares.begin());
    }
};

// |x|^2 + |y|^2 - 2 x.y
#if defined(__aarch64__)
// The rows of the left side are lanes of two registers, since 8 registers more would not fit. The sums are copied at
// the end, since the compiler would store those of the caller's tile in each step.
inline __attribute__((always_inline)) void squared_distances(const float* left, const float* left_squares,
                                                             const float* right, const float* right_squares, int64_t d,
                                                             Tile& tile) {
    float32x4_t sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v) sums[i][v] = (float32x4_t)(left_squares[i] + load(right_squares + v * LANES));
    for (int64_t p = 0; p < d; ++p, left += ROWS, right += COLUMNS) {
        const float32x4_t rows[] = {(float32x4_t)load(left), (float32x4_t)load(left + LANES)};
        for (int v = 0; v < VECTORS; ++v) {
            const float32x4_t column = (float32x4_t)load(right + v * LANES);
            sums[0][v] = vfmaq_laneq_f32(sums[0][v], column, rows[0], 0);
            sums[1][v] = vfmaq_laneq_f32(sums[1][v], column, rows[0], 1);
            sums[2][v] = vfmaq_laneq_f32(sums[2][v], column, rows[0], 2);
            sums[3][v] = vfmaq_laneq_f32(sums[3][v], column, rows[0], 3);
            sums[4][v] = vfmaq_laneq_f32(sums[4][v], column, rows[1], 0);
            sums[5][v] = vfmaq_laneq_f32(sums[5][v], column, rows[1], 1);
            sums[6][v] = vfmaq_laneq_f32(sums[6][v], column, rows[1], 2);
            sums[7][v] = vfmaq_laneq_f32(sums[7][v], column, rows[1], 3);
        }
    }
    std::memcpy(tile, sums, sizeof tile);
}
#else
inline __attribute__((always_inline)) void squared_distances(const float* left, const float* left_squares,
                                                             const float* right, const float* right_squares, int64_t d,
                                                             Tile& tile) {
    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v) tile[i][v] = left_squares[i] + load(right_squares + v * LANES);
    for (int64_t p = 0; p < d; ++p, left += ROWS, right += COLUMNS) {
        Vector columns[VECTORS];
        for (int v = 0; v < VECTORS; ++v) columns[v] = load(right + v * LANES);
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v) tile[i][v] += left[i] * columns[v];
    }
}
#endif

}  // namespace
