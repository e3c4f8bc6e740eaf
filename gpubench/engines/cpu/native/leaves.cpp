// Approximate neighbours: cells are compared inside leaves, then with the neighbours of their neighbours; called by
// leaves.py.

#include "nearest.hpp"

namespace {

float squared_difference(const float* x, const float* y, int64_t d) {
    Vector sums[2] = {};
    float rest = 0;
    int64_t p = 0;
    for (; p + 2 * LANES <= d; p += 2 * LANES)
        for (int half = 0; half < 2; ++half) {
            const Vector difference = load(x + p + half * LANES) - load(y + p + half * LANES);
            sums[half] += difference * difference;
        }
    for (; p < d; ++p) rest += (x[p] - y[p]) * (x[p] - y[p]);
    const Vector sum = sums[0] + sums[1];
    for (int lane = 0; lane < LANES; ++lane) rest += sum[lane];
    return rest;
}

}  // namespace

// Compare every two cells of a leaf and offer each to the other.
//
// rows (m, d), squares (m,): their squared norms, ids (m,): their cells. candidates (n, space), counts (n,), limits
// (n,) and locks (n,) belong to all cells. Candidates are first collected for the leaf alone, in a core's cache.
EXPORT void join_leaf(const float* rows, const float* squares, const int64_t* ids, int64_t m, int64_t d, int64_t keep,
                      int64_t space, uint64_t* candidates, int32_t* counts, float* limits, char* locks) {
    static thread_local Left left;
    static thread_local std::vector<float> panels, column_squares, own_limits;
    static thread_local std::vector<uint64_t> own_candidates;
    static thread_local std::vector<int32_t> own_counts;
    const int64_t width = rounded_up(m, COLUMNS);
    left.fill(rows, squares, m, d);
    panels.resize(width * d);
    pack(rows, m, d, COLUMNS, 1.0f, panels.data());
    column_squares.assign(width, std::numeric_limits<float>::infinity());
    std::copy(squares, squares + m, column_squares.begin());
    own_limits.assign(width, -1.0f);
    for (int64_t i = 0; i < m; ++i) own_limits[i] = limits[ids[i]];
    own_candidates.resize(m * space);
    own_counts.assign(m, 0);
    const Nearest own{keep, space, own_candidates.data(), own_counts.data(), own_limits.data(), nullptr, false, true};
    for (int64_t column = 0; column < m; column += COLUMNS) {
        const auto offer = [&](int64_t i, int64_t j, float squared) {
            if (i >= column + j) return;  // each pair once
            own.offer_alone(i, squared, column + j);
            own.offer_alone(column + j, squared, i);
        };
        compare(left, 0, std::min(m, column + COLUMNS), &panels[column * d], &column_squares[column], d,
                own_limits.data(), &own_limits[column], offer);
    }
    const Nearest all{keep, space, candidates, counts, limits, locks, true, true};
    for (int64_t i = 0; i < m; ++i) {
        const uint64_t* found = &own_candidates[i * space];
        all.offer_each(ids[i], found, own_counts[i], ids);
    }
}

// Write the `width` nearest candidates of rows [start, stop) by distance, -1 if there are fewer: (n, width).
EXPORT void nearest_ids(int64_t start, int64_t stop, int64_t keep, int64_t space, uint64_t* candidates, int32_t* counts,
                        float* limits, int64_t width, int32_t* ids) {
    const Nearest nearest{keep, space, candidates, counts, limits, nullptr, true, true};
    for (int64_t row = start; row < stop; ++row) {
        nearest.cut_back(row);
        for (int64_t i = 0; i < width; ++i)
            ids[row * width + i] = i < counts[row] ? int32_t(candidates[row * space + i]) : -1;
    }
}

// Offer to each of the rows [start, stop) the near cells of its near cells.
//
// x (n, d); scale converts differences into the unit of the products; near (n, width): near cells of each, -1: none.
EXPORT void join_near(const float* x, int64_t start, int64_t stop, int64_t d, double scale, const int32_t* near,
                      int64_t width, int64_t keep, int64_t space, uint64_t* candidates, int32_t* counts,
                      float* limits) {
    static thread_local Visited visited;
    static thread_local std::vector<int32_t> to_compare;
    const Nearest nearest{keep, space, candidates, counts, limits, nullptr, true, true};
    const float squared_scale = float(scale * scale);
    for (int64_t row = start; row < stop; ++row) {
        visited.clear(space + width * width + 1);
        visited.add(uint32_t(row));
        for (int64_t i = 0; i < counts[row]; ++i) visited.add(uint32_t(candidates[row * space + i]));
        to_compare.clear();
        for (int64_t i = 0; i < width; ++i) {
            const int32_t via = near[row * width + i];
            if (via < 0) continue;
            for (int64_t j = 0; j < width; ++j) {
                const int32_t cell = near[via * width + j];
                if (cell >= 0 && visited.add(uint32_t(cell))) to_compare.push_back(cell);
            }
        }
        for (size_t i = 0; i < to_compare.size(); ++i) {
            if (i + 4 < to_compare.size())
                for (int64_t p = 0; p < d; p += 16) __builtin_prefetch(x + to_compare[i + 4] * d + p);
            const float squared = squared_scale * squared_difference(x + row * d, x + to_compare[i] * d, d);
            nearest.offer_alone(row, squared, to_compare[i]);
        }
    }
}
