// The nearest cells of each row: every pair of cells is compared once and offered to both; called by top_k.py.

#include <utility>

#include "nearest.hpp"

namespace {

constexpr double REACH_MARGIN = 1 + 1e-5;  // as in knn_search.py

// Return a limit that at least `keep` values do not exceed: the `keep` smallest minima of COLUMNS groups are such
// values.
float bound_of_smallest(const float* values, int64_t width, int64_t keep) {
    if (keep > COLUMNS) return std::numeric_limits<float>::infinity();
    float minima[COLUMNS];
    std::copy(values, values + COLUMNS, minima);
    for (int64_t first = COLUMNS; first < width; first += COLUMNS)
        for (int j = 0; j < COLUMNS; ++j) minima[j] = std::min(minima[j], values[first + j]);
    std::nth_element(minima, minima + keep - 1, minima + COLUMNS);
    return minima[keep - 1];
}

}  // namespace

// Number of columns that are packed together; packed arrays are padded to a multiple of it.
EXPORT int64_t panel_columns() { return COLUMNS; }

// Pack (n, d) rows as columns of products: panels (n padded / COLUMNS, d, COLUMNS).
EXPORT void pack_columns(const float* rows, int64_t n, int64_t d, float* panels) {
    pack(rows, n, d, COLUMNS, 1.0f, panels);
}

// Offer columns [column_start, column_stop) to m rows and, if `both`, these rows to the columns.
//
// rows (m, d) and row_squares (m,), their squared norms, are at positions row_start, row_start + 1, ... of all rows;
// panels and column_squares (padded,) hold all columns, infinite for padding; column_start is a multiple of COLUMNS.
// `same`: row i and column i are the same cell, which is not its own neighbour.
// candidates (rows, space), counts (rows,), limits (rows + COLUMNS,) and locks (rows,) belong to the positions from
// base on.
EXPORT void topk_tiles(const float* rows, const float* row_squares, int64_t row_start, int64_t m, const float* panels,
                       const float* column_squares, int64_t column_start, int64_t column_stop, int64_t d, int32_t same,
                       int32_t both, int64_t keep, int64_t space, uint64_t* candidates, int32_t* counts, float* limits,
                       char* locks, int64_t base) {
    static thread_local Left left;
    left.fill(rows, row_squares, m, d);
    const Nearest nearest{keep, space, candidates, counts, limits, locks, false, false};
    const float* row_limits = limits + (row_start - base);
    const std::vector<float> none(COLUMNS, -1.0f);
    for (int64_t column = column_start; column < column_stop; column += COLUMNS) {
        const float* column_limits = both ? limits + (column - base) : none.data();
        const auto offer = [&](int64_t row, int64_t j, float squared) {
            const int64_t position = row_start + row;
            if (same && column + j == position) return;
            if (squared < row_limits[row]) nearest.offer(position - base, squared, column + j);
            if (squared < column_limits[j]) nearest.offer(column + j - base, squared, position);
        };
        compare(left, 0, m, panels + column * d, column_squares + column, d, row_limits, column_limits, offer);
    }
}

// Compare all rows of a leaf with each other and keep the nearest of each.
//
// As topk_tiles for rows without candidates and columns that are these rows. Selecting once from all values of a row is
// several times faster than offering one by one while no limit is known.
EXPORT void topk_start(const float* rows, const float* row_squares, int64_t row_start, int64_t m, const float* panels,
                       const float* column_squares, int64_t d, int64_t keep, int64_t space, uint64_t* candidates,
                       int32_t* counts, float* limits, int64_t base) {
    static thread_local Left left;
    static thread_local std::vector<float> strip;
    static thread_local std::vector<uint64_t> row_candidates;
    left.fill(rows, row_squares, m, d);
    const int64_t width = rounded_up(m, COLUMNS);
    strip.resize(ROWS * width);
    for (int64_t row = 0; row < m; row += ROWS) {
        for (int64_t column = 0; column < width; column += COLUMNS) {
            const int64_t position = row_start + column;
            Tile tile;
            squared_distances(&left.rows[row * d], &left.squares[row], panels + position * d, column_squares + position,
                              d, tile);
            for (int i = 0; i < ROWS; ++i)
                for (int v = 0; v < VECTORS; ++v) store(&strip[i * width + column + v * LANES], tile[i][v]);
        }
        for (int64_t i = 0; i < ROWS && row + i < m; ++i) {
            float* values = &strip[i * width];
            values[row + i] = std::numeric_limits<float>::infinity();
            const float bound = bound_of_smallest(values, width, keep);
            row_candidates.clear();
            for (int64_t j = 0; j < m; ++j)
                if (values[j] <= bound && j != row + i)
                    row_candidates.push_back(Nearest::candidate(values[j], row_start + j));
            const int64_t position = row_start + row + i - base;
            if (int64_t(row_candidates.size()) > keep) {
                std::nth_element(row_candidates.begin(), row_candidates.begin() + keep - 1, row_candidates.end());
                row_candidates.resize(keep);
                limits[position] = Nearest::distance_of(row_candidates[keep - 1]);
            }
            std::copy(row_candidates.begin(), row_candidates.end(), candidates + position * space);
            counts[position] = int32_t(row_candidates.size());
        }
    }
}

// Compute the exact squared distances of m pairs, query rows[i] and cell cells[i], as topk_finish does.
EXPORT void exact_squared(const float* queries, const float* x, int64_t d, const int64_t* rows, const int64_t* cells,
                          int64_t m, double* squared) {
    for (int64_t i = 0; i < m; ++i) squared[i] = squared_distance(queries + rows[i] * d, x + cells[i] * d, d);
}

// Order the candidates of m rows by (exact distance, id) and write the k nearest.
//
// queries (.., d) and x (.., d), unscaled; row_ids (m,) and column_ids: query and cell at each position; norms (m,),
// largest, factor, scale: see Rounding in knn_search.py.
// Written, by query: indices and distances (.., k), uncertain: a cell that is no candidate may be among the nearest.
EXPORT void topk_finish(const float* queries, const float* x, int64_t d, const int64_t* row_ids,
                        const int64_t* column_ids, int64_t m, int64_t keep, int64_t space, uint64_t* candidates,
                        int32_t* counts, float* limits, const double* norms, double largest, double factor,
                        double scale, int32_t all_seen, int32_t repeats, int64_t k, int32_t* indices, float* distances,
                        uint8_t* uncertain) {
    const Nearest nearest{keep, space, candidates, counts, limits, nullptr, repeats != 0, repeats != 0};
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
