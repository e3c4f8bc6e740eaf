// Compute the mean absolute difference between a cell's value (its time) and the values of its nearest neighbours.
//
//     out_i = (sum over the first k_i neighbours j of |t_i - t_j|) / k_i
//
// Shapes  indices (m, k) int32, rows indices_stride elements apart; own (m) and values (n) float64: the values of the
//         cells of the rows, and of all cells; k_per_cell (m) int32 in [1, k]; out (m) float64, written
// Launch  8 lanes per cell, whose sum has a fixed order
// Bytes   reads 4 k_i per cell for the indices and 8 k_i at random for the values, writes 8
// Twin    neighbor_value_distance in gpubench/engines/common/neighborhoods.py

constexpr int CELL_LANES = 8;

extern "C" __global__ void __launch_bounds__(256)
    neighbor_value_distance(const int* __restrict__ indices, Index indices_stride, const double* __restrict__ own,
                            const double* __restrict__ values, const int* __restrict__ k_per_cell, Index m,
                            double* out) {
    constexpr int WARP_CELLS = WARP / CELL_LANES;
    // all lanes must take part in shuffles: those beyond the last cell add nothing
    for (Index first = warp_in_grid() * WARP_CELLS; first < m; first += warps_in_grid() * WARP_CELLS) {
        const Index cell = first + lane() / CELL_LANES;
        const int k = cell < m ? k_per_cell[cell] : 0;
        double total = 0.0;
        for (int j = lane() % CELL_LANES; j < k; j += CELL_LANES) {
            total += fabs(own[cell] - values[indices[cell * indices_stride + j]]);
        }
        total = sum_of_lanes<CELL_LANES>(total);
        if (cell < m && lane() % CELL_LANES == 0) out[cell] = total / k;
    }
}
