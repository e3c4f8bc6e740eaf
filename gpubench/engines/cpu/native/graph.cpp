// Joins memberships of neighbours in both directions into an undirected graph; called by kernels.py.
//
// indices (n, k) and memberships (n, k) belong to all cells. The weight of an edge is w + w' - w w', with 0 for a
// missing direction; edges of weight 0 are left out.

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "product.hpp"

namespace {

// Return the membership of i among the neighbours of j, or -1 if i is not a neighbour of j.
double way_back(const int32_t* indices, const double* memberships, int64_t k, int32_t i, int32_t j) {
    const int32_t* row = indices + j * k;
    const int32_t* place = std::find(row, row + k, i);
    return place == row + k ? -1.0 : memberships[place - indices];
}

double joined(double there, double back) {
    const volatile double both = there * back;  // volatile, so that the compiler does not fuse it
    return there + back - both;
}

// Call found(i, j, weight, one_way) for every edge from the cells [start, stop) to a neighbour j. one_way: i is not a
// neighbour of j, so the edge is not found from j.
template <typename Found>
void each_edge(const int32_t* indices, const double* memberships, int64_t k, int64_t start, int64_t stop,
               Found&& found) {
    for (int64_t i = start; i < stop; ++i)
        for (int64_t p = i * k; p < (i + 1) * k; ++p) {
            const double back = way_back(indices, memberships, k, static_cast<int32_t>(i), indices[p]);
            const double weight = joined(memberships[p], std::max(back, 0.0));
            if (weight != 0) found(static_cast<int32_t>(i), indices[p], weight, back < 0);
        }
}

int64_t add_one(int64_t* count) { return __atomic_fetch_add(count, 1, __ATOMIC_RELAXED); }

}  // namespace

// Add the edges found from the cells [start, stop) to counts (n,) of each cell.
EXPORT void count_edges(const int32_t* indices, const double* memberships, int64_t k, int64_t start, int64_t stop,
                        int64_t* counts) {
    each_edge(indices, memberships, k, start, stop, [&](int32_t i, int32_t j, double, bool one_way) {
        add_one(&counts[i]);
        if (one_way) add_one(&counts[j]);
    });
}

// Write the same edges. ends (n,): position of the next edge of each cell in columns and weights; incremented.
EXPORT void write_edges(const int32_t* indices, const double* memberships, int64_t k, int64_t start, int64_t stop,
                        int64_t* ends, int32_t* columns, double* weights) {
    const auto write = [&](int32_t i, int32_t j, double weight) {
        const int64_t place = add_one(&ends[i]);
        columns[place] = j;
        weights[place] = weight;
    };
    each_edge(indices, memberships, k, start, stop, [&](int32_t i, int32_t j, double weight, bool one_way) {
        write(i, j, weight);
        if (one_way) write(j, i, weight);
    });
}

// Sort the edges of the cells [start, stop), at indptr[i] to indptr[i + 1], by column.
EXPORT void sort_edges(const int64_t* indptr, int64_t start, int64_t stop, int32_t* columns, double* weights) {
    std::vector<std::pair<int32_t, double>> edges;
    for (int64_t i = start; i < stop; ++i) {
        edges.clear();
        for (int64_t p = indptr[i]; p < indptr[i + 1]; ++p) edges.emplace_back(columns[p], weights[p]);
        std::sort(edges.begin(), edges.end());
        for (int64_t p = indptr[i]; p < indptr[i + 1]; ++p)
            std::tie(columns[p], weights[p]) = edges[static_cast<size_t>(p - indptr[i])];
    }
}
