// Find the nearest cells of some rows by comparing them with every cell in float64, for rows that `rerank` flagged.
//
// A block takes a few rows and one piece of the cells, reads each cell once for all of its rows, and writes the nearest
// k of the piece to each row by (squared distance, id) as candidates; `rerank` of the candidates of all pieces gives
// the neighbours. With few rows and many cells, more pieces keep the GPU busy.
//
// Shapes  queries (m, d) and x (n, d) float32, as given by the user
//         rows (n_rows) int32, the rows of `queries` to search for
//         same_cells: 1 if row i of queries is cell i, which is not its own neighbour
//         together: rows of a block, at most MAX_TOGETHER
//         size: a power of two, >= k + threads of a block
//         candidates (n_rows, n_pieces, k) uint64, written; NO_CANDIDATE where a piece has fewer than k cells
// Launch  a block per (`together` rows, piece); (12 * size + 4) * together bytes of shared memory per block
// Bytes   reads 4 n d per `together` rows
// Twin    search_exactly in gpubench/engines/cpu/kernels.py

constexpr int CELLS_PER_ROUND = 8;  // cells that a group of lanes compares between two barriers
constexpr int MAX_TOGETHER = 4;

extern "C" __global__ void __launch_bounds__(256)
    search_exactly(const float* __restrict__ queries, const float* __restrict__ x, int d, Index n,
                   const int* __restrict__ rows, Index n_rows, int same_cells, int together, int n_pieces, int k,
                   int size, Candidate* candidates) {
    DYNAMIC_SHARED(shared);
    double* squared = reinterpret_cast<double*>(shared);
    int* ids = reinterpret_cast<int*>(squared + together * size);
    int* counts = ids + together * size;
    const int group = static_cast<int>(threadIdx.x) / SEARCH_LANES;
    const int n_groups = static_cast<int>(blockDim.x) / SEARCH_LANES;
    const int round = n_groups * CELLS_PER_ROUND;
    const Index piece_cells = (n + n_pieces - 1) / n_pieces;
    const Index n_tasks = (n_rows + together - 1) / together * n_pieces;
    for (Index task = blockIdx.x; task < n_tasks; task += gridDim.x) {
        const Index first_row = task / n_pieces * together;
        const Index piece = task % n_pieces;
        const Index start = piece * piece_cells;
        const Index stop = min(start + piece_cells, n);
        // the last block may have fewer rows: the others are copies of its last row, which are not written
        Index row[MAX_TOGETHER];
        double limit[MAX_TOGETHER];
        int limit_id[MAX_TOGETHER];
#pragma unroll
        for (int r = 0; r < MAX_TOGETHER; ++r) {
            row[r] = rows[min(first_row + min(r, together - 1), n_rows - 1)];
            limit[r] = infinity();
            limit_id[r] = NO_CELL;
        }
        if (static_cast<int>(threadIdx.x) < together) counts[threadIdx.x] = 0;
        __syncthreads();
        for (Index first = start; first < stop; first += round) {
            for (int u = 0; u < CELLS_PER_ROUND; ++u) {
                const Index cell = first + u * n_groups + group;
                const float* values = x + min(cell, stop - 1) * d;
                double exact[MAX_TOGETHER] = {};
#pragma unroll 2
                for (int t = lane() % SEARCH_LANES; t < d; t += SEARCH_LANES) {
                    const double value = static_cast<double>(values[t]);
#pragma unroll
                    for (int r = 0; r < MAX_TOGETHER; ++r) {
                        if (r < together) {
                            const double difference = static_cast<double>(queries[row[r] * d + t]) - value;
                            exact[r] += difference * difference;
                        }
                    }
                }
                const int id = static_cast<int>(cell);
#pragma unroll
                for (int r = 0; r < MAX_TOGETHER; ++r) {
                    if (r >= together) break;
                    exact[r] = sum_of_lanes<SEARCH_LANES>(exact[r]);
                    const bool is_other = cell < stop && !(same_cells && cell == row[r]);
                    if (is_other && lane() % SEARCH_LANES == 0 && closer(exact[r], id, limit[r], limit_id[r])) {
                        const int slot = r * size + atomicAdd(&counts[r], 1);
                        squared[slot] = exact[r];
                        ids[slot] = id;
                    }
                }
            }
            __syncthreads();
#pragma unroll
            for (int r = 0; r < MAX_TOGETHER; ++r) {
                if (r >= together) break;
                const int found = counts[r];
                if (found + round > size || first + round >= stop) {
                    for (int slot = found + static_cast<int>(threadIdx.x); slot < size;
                         slot += static_cast<int>(blockDim.x)) {
                        squared[r * size + slot] = infinity();
                        ids[r * size + slot] = NO_CELL;
                    }
                    __syncthreads();
                    sort_neighbors(squared + r * size, ids + r * size, size);
                    limit[r] = squared[r * size + k - 1];
                    limit_id[r] = ids[r * size + k - 1];
                    if (threadIdx.x == 0) counts[r] = min(found, k);
                }
            }
            __syncthreads();
        }
        for (int r = 0; r < min(static_cast<Index>(together), n_rows - first_row); ++r) {
            for (int j = static_cast<int>(threadIdx.x); j < k; j += static_cast<int>(blockDim.x)) {
                candidates[((first_row + r) * n_pieces + piece) * k + j] =
                    j < counts[r] ? candidate(0.0f, ids[r * size + j]) : NO_CANDIDATE;
            }
        }
        __syncthreads();
    }
}
