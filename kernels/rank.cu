// Average ranks of the values of each row, counted from 1; equal values share the mean of their ranks.
//
// The host sorts each row; here every value looks for both ends of its run of equal values, in steps that double and
// then halve, so that a run of any length costs its logarithm. Ranks are exact.
//
// Shapes  sorted (n_rows, n) float64, each row ascending; order (n_rows, n) int64, where each value was before
//         ranks (n_rows, n) float64, written
// Launch  grid (x, y): threads of x take the values of a row, y takes the rows
// Bytes   reads 16 a value and its run's ends, writes 8 at random within the row
// Twin    rank in gpubench/engines/cpu/engine.py

// The last position that holds the same value as `at`, going by `direction`; `room` positions lie on that side of it.
__device__ inline Index end_of_run(const double* row, Index at, Index direction, Index room) {
    Index inside = 0, step = 1;  // row[at + direction * inside] is equal
    while (inside + step <= room && row[at + direction * (inside + step)] == row[at]) {
        inside += step;
        step *= 2;
    }
    Index outside = min(inside + step, room + 1);
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
