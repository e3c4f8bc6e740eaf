// The nearest cells of each row: every pair of cells is compared once and offered to both; cpu_topk.py calls it.

#include <sched.h>

#include <limits>
#include <utility>

#include "product.hpp"

namespace {

constexpr double REACH_MARGIN = 1 + 1e-5;  // as in neighbors.py

// The nearest cells of each row seen so far: unordered, and cut back to `keep` whenever they fill their space. Threads
// that find something for the same row take turns. A limit may be read while it is lowered: the old one lets more
// through.
struct Nearest {
    int64_t keep, space;
    uint64_t* candidates;  // (rows, space): the squared distance in the upper half, so that integers sort like it, and
                           // the column
    int32_t* counts;       // (rows,)
    float* limits;         // (rows,): what is not below is no candidate
    char* locks;           // (rows,)

    void offer(int64_t row, float squared, int64_t column) const {
        while (__atomic_test_and_set(locks + row, __ATOMIC_ACQUIRE)) sched_yield();
        if (squared < limits[row]) {
            const float positive = std::max(squared, 0.0f);  // rounding may leave a little less than 0
            uint32_t bits;
            std::memcpy(&bits, &positive, sizeof bits);
            candidates[row * space + counts[row]++] = uint64_t(bits) << 32 | uint32_t(column);
            if (counts[row] == space) cut_back(row);
        }
        __atomic_clear(locks + row, __ATOMIC_RELEASE);
    }

    void cut_back(int64_t row) const {
        if (counts[row] < keep) return;
        uint64_t* own = candidates + row * space;
        std::nth_element(own, own + keep - 1, own + counts[row]);
        counts[row] = int32_t(keep);
        const uint32_t bits = uint32_t(own[keep - 1] >> 32);
        std::memcpy(limits + row, &bits, sizeof bits);
    }
};

double squared_distance(const float* x, const float* y, int64_t d) {
    double sums[8] = {}, rest = 0;
    int64_t p = 0;
    for (; p + 8 <= d; p += 8)
        for (int lane = 0; lane < 8; ++lane) {
            const double difference = double(x[p + lane]) - double(y[p + lane]);
            sums[lane] += difference * difference;
        }
    for (; p < d; ++p) rest += (double(x[p]) - double(y[p])) * (double(x[p]) - double(y[p]));
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])) + rest;
}

}  // namespace

// Columns that are packed side by side; what is packed is padded to a multiple of it.
EXPORT int64_t panel_columns() { return COLUMNS; }

// (n, d) rows as columns of products: panels (n padded / COLUMNS, d, COLUMNS).
EXPORT void pack_columns(const float* rows, int64_t n, int64_t d, float* panels) {
    pack(rows, n, d, COLUMNS, 1.0f, panels);
}

// Offer columns [column_start, column_stop) to m rows and, if `both`, these rows to the columns.
//
// rows (m, d) and row_squares (m,), their squared norms, are at positions row_start, row_start + 1, ... of all rows;
// panels and column_squares (padded,) hold all columns, infinite where padded; column_start is a multiple of COLUMNS.
// `same`: row i and column i are the same cell, which is not its own neighbour.
// candidates (rows, space), counts (rows,), limits (rows + COLUMNS,) and locks (rows,) belong to the positions from
// base on.
EXPORT void topk_tiles(const float* rows, const float* row_squares, int64_t row_start, int64_t m, const float* panels,
                       const float* column_squares, int64_t column_start, int64_t column_stop, int64_t d, int32_t same,
                       int32_t both, int64_t keep, int64_t space, uint64_t* candidates, int32_t* counts, float* limits,
                       char* locks, int64_t base) {
    static thread_local Left left;
    left.fill(rows, row_squares, m, d);
    const Nearest nearest{keep, space, candidates, counts, limits, locks};
    const float* row_limits = limits + (row_start - base);
    const std::vector<float> none(COLUMNS, -1.0f);
    for (int64_t column = column_start; column < column_stop; column += COLUMNS) {
        const float* column_limits = both ? limits + (column - base) : none.data();
        for (int64_t row = 0; row < m; row += ROWS) {
            Tile tile;
            squared_distances(&left.rows[row * d], &left.squares[row], panels + column * d, column_squares + column, d,
                              tile);
            uint64_t any = 0;
            for (int v = 0; v < VECTORS; ++v)
                for (int i = 0; i < ROWS; ++i)
                    any |= below(tile[i][v], everywhere(row_limits[row + i])) |
                           below(tile[i][v], load(column_limits + v * LANES));
            if (!any) continue;
            float values[ROWS][COLUMNS];
            for (int i = 0; i < ROWS; ++i)
                for (int v = 0; v < VECTORS; ++v) store(&values[i][v * LANES], tile[i][v]);
            for (int i = 0; i < ROWS && row + i < m; ++i) {
                const Vector limit = everywhere(row_limits[row + i]);
                uint64_t found = 0;
                for (int v = 0; v < VECTORS; ++v) {
                    const Vector squared = load(&values[i][v * LANES]);
                    found |= (below(squared, limit) | below(squared, load(column_limits + v * LANES))) << (v * LANES);
                }
                const int64_t position = row_start + row + i;
                for (; found; found &= found - 1) {
                    const int64_t j = __builtin_ctzll(found);
                    if (same && column + j == position) continue;
                    if (values[i][j] < row_limits[row + i]) nearest.offer(position - base, values[i][j], column + j);
                    if (values[i][j] < column_limits[j]) nearest.offer(column + j - base, values[i][j], position);
                }
            }
        }
    }
}

// Order the candidates of m rows by (exact distance, id) and write the k nearest.
//
// queries (.., d) and x (.., d), as the user gave them; row_ids (m,) and column_ids: which query and which cell is at a
// position; norms (m,), largest, factor, scale: see Rounding in neighbors.py.
// Written, by query: indices and distances (.., k), uncertain: a cell that is no candidate may be among the nearest.
EXPORT void topk_finish(const float* queries, const float* x, int64_t d, const int64_t* row_ids,
                        const int64_t* column_ids, int64_t m, int64_t keep, int64_t space, uint64_t* candidates,
                        int32_t* counts, float* limits, const double* norms, double largest, double factor,
                        double scale, int32_t all_seen, int64_t k, int32_t* indices, float* distances,
                        uint8_t* uncertain) {
    const Nearest nearest{keep, space, candidates, counts, limits, nullptr};
    std::vector<std::pair<double, int64_t>> found;
    for (int64_t row = 0; row < m; ++row) {
        nearest.cut_back(row);
        const int64_t query = row_ids[row];
        found.clear();
        for (int64_t i = 0; i < counts[row]; ++i) {
            const int64_t cell = column_ids[uint32_t(candidates[row * space + i])];
            found.emplace_back(squared_distance(queries + query * d, x + cell * d, d), cell);
        }
        std::sort(found.begin(), found.end());
        const int64_t n_found = std::min(k, int64_t(found.size()));
        for (int64_t i = 0; i < n_found; ++i) {
            indices[query * k + i] = int32_t(found[i].second);
            distances[query * k + i] = float(std::sqrt(found[i].first));
        }
        uncertain[query] = n_found < k;
        if (all_seen || n_found < k) continue;
        const double kth = found[k - 1].first;
        const double reach = std::min(largest, (norms[row] + std::sqrt(kth) * scale) * REACH_MARGIN);
        const double error = factor * (norms[row] + reach) * (norms[row] + reach);
        uncertain[query] = !(kth < (double(limits[row]) - error) / (scale * scale));
    }
}
