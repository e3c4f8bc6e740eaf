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
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8, VECTORS = 3;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 4, VECTORS = 3;
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

}  // namespace
