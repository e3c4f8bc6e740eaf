// Counts the cells of each pair of codes: clusters against labels, or true against predicted classes.
//
// With in_shared = 1 each block counts in shared memory and adds its table to the result once; a table that does not
// fit there is counted in global memory. Integers: the same counts in any order.
//
// Shapes  rows, columns (n) int32 codes in [0, n_rows) and [0, n_columns); counts (n_rows, n_columns) int64, added to
// Launch  a thread a cell; 4 * n_rows * n_columns bytes of shared memory where in_shared = 1; a block sees < 2^32 cells
// Bytes   reads 8 a cell, adds 8 for each pair that a block has seen (8 a cell where in_shared = 0)
// Twin    contingency in gpubench/engines/cpu/engine.py

extern "C" __global__ void __launch_bounds__(1024)
    contingency(const int* __restrict__ rows, const int* __restrict__ columns, Index n, int n_rows, int n_columns,
                int in_shared, long long* counts) {
    DYNAMIC_SHARED(shared);
    unsigned* table = reinterpret_cast<unsigned*>(shared);
    const Index n_pairs = static_cast<Index>(n_rows) * n_columns;
    if (in_shared) {
        for (Index pair = threadIdx.x; pair < n_pairs; pair += blockDim.x) table[pair] = 0;
        __syncthreads();
    }
    for (Index i = thread_in_grid(); i < n; i += threads_in_grid()) {
        const Index pair = static_cast<Index>(rows[i]) * n_columns + columns[i];
        if (in_shared) {
            atomicAdd(&table[pair], 1u);
        } else {
            atomic_add(&counts[pair], 1);
        }
    }
    if (in_shared) {
        __syncthreads();
        for (Index pair = threadIdx.x; pair < n_pairs; pair += blockDim.x) {
            if (table[pair] != 0) atomic_add(&counts[pair], table[pair]);
        }
    }
}
