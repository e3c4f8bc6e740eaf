// Find the nearest cells of some rows by comparing them with every cell in float64, for rows that `rerank` flagged.
//
// A block takes one row and one piece of the cells, and writes the nearest k of the piece by (squared distance, id) as
// candidates; `rerank` of the candidates of all pieces gives the neighbours. With few rows and many cells, more pieces
// keep the GPU busy.
//
// Shapes  queries (m, d) and x (n, d) float32, as given by the user
//         rows (n_rows) int32, the rows of `queries` to search for
//         same_cells: 1 if row i of queries is cell i, which is not its own neighbour
//         size: a power of two, >= k + threads of a block
//         candidates (n_rows, n_pieces, k) uint64, written; NO_CANDIDATE where a piece has fewer than k cells
// Launch  a block per (row, piece); 12 * size + 4 bytes of shared memory per block
// Bytes   reads 4 n d per row
// Twin    search_exactly in gpubench/engines/cpu/kernels.py

constexpr int CELLS_PER_ROUND = 8;  // cells that a group of lanes compares between two barriers

extern "C" __global__ void __launch_bounds__(256)
    search_exactly(const float* __restrict__ queries, const float* __restrict__ x, int d, Index n,
                   const int* __restrict__ rows, Index n_rows, int same_cells, int n_pieces, int k, int size,
                   Candidate* candidates) {
    DYNAMIC_SHARED(shared);
    double* squared = reinterpret_cast<double*>(shared);
    int* ids = reinterpret_cast<int*>(squared + size);
    int& count = ids[size];
    const int group = static_cast<int>(threadIdx.x) / SEARCH_LANES;
    const int n_groups = static_cast<int>(blockDim.x) / SEARCH_LANES;
    const int round = n_groups * CELLS_PER_ROUND;
    const Index piece_cells = (n + n_pieces - 1) / n_pieces;
    for (Index task = blockIdx.x; task < n_rows * n_pieces; task += gridDim.x) {
        const Index row = rows[task / n_pieces];
        const Index start = task % n_pieces * piece_cells;
        const Index stop = min(start + piece_cells, n);
        const float* query = queries + row * d;
        double limit = infinity();
        int limit_id = NO_CELL;
        if (threadIdx.x == 0) count = 0;
        __syncthreads();
        for (Index first = start; first < stop; first += round) {
            for (int u = 0; u < CELLS_PER_ROUND; ++u) {
                const Index cell = first + u * n_groups + group;
                const bool is_other = cell < stop && !(same_cells && cell == row);
                const double exact = squared_distance(query, is_other ? x + cell * d : query, d);
                const int id = static_cast<int>(cell);
                if (is_other && lane() % SEARCH_LANES == 0 && closer(exact, id, limit, limit_id)) {
                    const int slot = atomicAdd(&count, 1);
                    squared[slot] = exact;
                    ids[slot] = id;
                }
            }
            __syncthreads();
            const int found = count;
            if (found + round > size || first + round >= stop) {
                for (int slot = found + static_cast<int>(threadIdx.x); slot < size;
                     slot += static_cast<int>(blockDim.x)) {
                    squared[slot] = infinity();
                    ids[slot] = NO_CELL;
                }
                __syncthreads();
                sort_neighbors(squared, ids, size);
                limit = squared[k - 1];
                limit_id = ids[k - 1];
                if (threadIdx.x == 0) count = min(found, k);
            }
            __syncthreads();
        }
        for (int j = static_cast<int>(threadIdx.x); j < k; j += static_cast<int>(blockDim.x)) {
            candidates[task * k + j] = j < count ? candidate(0.0f, ids[j]) : NO_CANDIDATE;
        }
        __syncthreads();
    }
}
