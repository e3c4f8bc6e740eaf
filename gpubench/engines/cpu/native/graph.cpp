// Memberships of neighbours in both directions become one undirected graph; cpu_graph.py calls it.
//
// indices (n, k) and memberships (n, k) are of all cells. An edge weighs w + w' - w w', with 0 for a direction that
// there is not, and those of weight 0 are left out.

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "product.hpp"

namespace {

// What cell j has of i, or -1 where i is not among its neighbours.
double way_back(const int32_t* indices, const double* memberships, int64_t k, int32_t i, int32_t j) {
    const int32_t* row = indices + j * k;
    const int32_t* place = std::find(row, row + k, i);
    return place == row + k ? -1.0 : memberships[place - indices];
}

double joined(double there, double back) {
    const volatile double both = there * back;  // rounded, whatever the compiler could fuse
    return there + back - both;
}

// Call found(i, j, weight, alone) for every neighbour j of the cells start ... stop - 1 with an edge to it; alone: i is
// not among the neighbours of j, which will not come upon this edge.
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

// Add to counts (n,) the edges of each cell that the cells start ... stop - 1 come upon.
EXPORT void count_edges(const int32_t* indices, const double* memberships, int64_t k, int64_t start, int64_t stop,
                        int64_t* counts) {
    each_edge(indices, memberships, k, start, stop, [&](int32_t i, int32_t j, double, bool alone) {
        add_one(&counts[i]);
        if (alone) add_one(&counts[j]);
    });
}

// Write the same edges. ends (n,): where each cell's next edge goes in columns and weights; moved on.
EXPORT void write_edges(const int32_t* indices, const double* memberships, int64_t k, int64_t start, int64_t stop,
                        int64_t* ends, int32_t* columns, double* weights) {
    const auto write = [&](int32_t i, int32_t j, double weight) {
        const int64_t place = add_one(&ends[i]);
        columns[place] = j;
        weights[place] = weight;
    };
    each_edge(indices, memberships, k, start, stop, [&](int32_t i, int32_t j, double weight, bool alone) {
        write(i, j, weight);
        if (alone) write(j, i, weight);
    });
}

// Put the edges of the cells start ... stop - 1, which stand from indptr[i] to indptr[i + 1], in the order of columns.
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
