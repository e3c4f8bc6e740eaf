// Compute the exact distances of the candidate neighbours of each row, sort them, and flag rows that are uncertain.
//
//     squared_rc = |queries_r - x_c|^2, differences and sum in float64, for every candidate c of row r
//
// The nearest k by (squared, id) are written in ascending order. A cell that is not a candidate has a key that is not
// below the row's limit, so its squared distance in units of x is at least
// (key of the limit + offsets_r) * inverse_square_scale. offsets_r is |x_r|^2 in units of the keys, minus the largest
// amount that rounding may have added to a key. A row is uncertain, and must be searched again, unless it has k
// candidates and its k-th neighbour is nearer than that bound.
//
// Shapes  queries (n_rows, d) and x (n, d) float32, as given by the user
//         candidates (n_rows, capacity) uint64, NO_CANDIDATE in unused entries
//         counts (n_rows) int32, at most `size`, which is a power of two
//         limits (n_rows) uint64, NO_CANDIDATE where every cell is a candidate
//         offsets (n_rows) float64
//         indices (n_rows, k) int32 and distances (n_rows, k) float32, Euclidean, written; -1 and infinity if there
//         is no neighbour
//         uncertain (n_rows) uint8, written
// Launch  a block per row; 12 * size bytes of shared memory per block
// Bytes   reads 4 d + 8 per candidate, writes 8 k per row
// Twin    rerank in gpubench/engines/cpu/exact_knn.py

extern "C" __global__ void __launch_bounds__(256)
    rerank(const float* __restrict__ queries, const float* __restrict__ x, int d, Index n_rows,
           const Candidate* __restrict__ candidates, int capacity, const int* __restrict__ counts,
           const Candidate* __restrict__ limits, const double* __restrict__ offsets, double inverse_square_scale, int k,
           int size, int* indices, float* distances, unsigned char* uncertain) {
    DYNAMIC_SHARED(shared);
    double* squared = reinterpret_cast<double*>(shared);
    int* ids = reinterpret_cast<int*>(squared + size);
    const int group = static_cast<int>(threadIdx.x) / SEARCH_LANES;
    const int n_groups = static_cast<int>(blockDim.x) / SEARCH_LANES;
    for (Index row = blockIdx.x; row < n_rows; row += gridDim.x) {
        const float* query = queries + row * d;
        // all lanes must take part in shuffles, so the loop includes the padding
        for (int first = 0; first < size; first += n_groups) {
            const int c = first + group;
            const Candidate entry = c < counts[row] ? candidates[row * capacity + c] : NO_CANDIDATE;
            const bool is_cell = entry != NO_CANDIDATE;
            const float* cell = is_cell ? x + static_cast<Index>(id_of(entry)) * d : query;
            const double exact = squared_distance(query, cell, d);
            if (c < size && lane() % SEARCH_LANES == 0) {
                squared[c] = is_cell ? exact : infinity();
                ids[c] = is_cell ? id_of(entry) : NO_CELL;
            }
        }
        __syncthreads();
        sort_neighbors(squared, ids, size);
        for (int j = static_cast<int>(threadIdx.x); j < k; j += static_cast<int>(blockDim.x)) {
            const bool is_cell = j < size && ids[j] != NO_CELL;
            indices[row * k + j] = is_cell ? ids[j] : -1;
            distances[row * k + j] = static_cast<float>(is_cell ? sqrt(squared[j]) : infinity());
        }
        if (threadIdx.x == 0) {
            const double unseen =
                limits[row] == NO_CANDIDATE
                    ? infinity()
                    : (static_cast<double>(key_of(limits[row])) + offsets[row]) * inverse_square_scale;
            uncertain[row] = k > size || ids[k - 1] == NO_CELL || squared[k - 1] >= unseen;
        }
        __syncthreads();
    }
}
