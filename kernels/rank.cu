// Compute the average ranks of the values of each row, counted from 1; equal values share the mean of their ranks.
//
// The host sorts each row. Here every value searches for both ends of its run of equal values, in steps that first
// double and then halve, so that the cost is logarithmic in the length of the run. Ranks are exact.
//
// Shapes  sorted (n_rows, n) float64, each row ascending; order (n_rows, n) int64, the position before sorting
//         ranks (n_rows, n) float64, written
// Launch  grid (x, y): a thread of x per value, y over the rows
// Bytes   reads 16 per value and the ends of its run, writes 8 at random within the row
// Twin    rank in gpubench/engines/cpu/engine.py

// Return the last position in `direction` (1 or -1) whose value equals that at `at`. `n_beyond` positions lie on that
// side of `at`.
__device__ inline Index end_of_run(const double* row, Index at, Index direction, Index n_beyond) {
    Index inside = 0, step = 1;  // row[at + direction * inside] is equal
    while (inside + step <= n_beyond && row[at + direction * (inside + step)] == row[at]) {
        inside += step;
        step *= 2;
    }
    Index outside = min(inside + step, n_beyond + 1);
    while (outside - inside > 1) {
        const Index middle = (inside + outside) / 2;
        (row[at + direction * middle] == row[at] ? inside : outside) = middle;
    }
    return at + direction * inside;
}

extern "C" __global__ void __launch_bounds__(256)
    rank(const double* __restrict__ sorted, const Index* __restrict__ order, Index n_rows, Index n, double* ranks) {
    for (Index r = blockIdx.y; r < n_rows; r += gridDim.y) {
        const double* row = sorted + r * n;
        for (Index at = thread_in_grid(); at < n; at += threads_in_grid()) {
            const Index first = end_of_run(row, at, -1, at);
            const Index last = end_of_run(row, at, 1, n - 1 - at);
            ranks[r * n + order[r * n + at]] = 0.5 * static_cast<double>(first + last) + 1.0;
        }
    }
}
