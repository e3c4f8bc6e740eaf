// Compute the entropy of the codes (batches) of each cell and its neighbours.
//
//     H_i = log m - (sum over codes of c log c) / m      c cells of a code among the m = k + 1
//
// A warp counts the codes of one cell in shared memory, `bins` codes at a time, so that any number of codes fits. The
// sum over the codes has a fixed order.
//
// Shapes  indices (m, k) int32 in [0, n), rows indices_stride elements apart
//         own (m) int32 in [0, n_codes), the code of the cell of each row
//         codes (n) int32 in [0, n_codes), the code of every cell that may be a neighbour
//         bins: a multiple of 32
//         count_log_count (k + 2) float64: c log c for c = 0 ... k + 1, 0 for c = 0
//         entropy (m) float64, written
// Launch  a warp per cell; 4 * bins bytes of shared memory per warp
// Bytes   for each `bins` codes reads 4 (k + 1) per cell for the indices and as much at random for the codes; writes 8
// Twin    neighbor_entropy in gpubench/engines/common/neighborhoods.py

extern "C" __global__ void __launch_bounds__(256)
    neighbor_entropy(const int* __restrict__ indices, Index indices_stride, const int* __restrict__ own,
                     const int* __restrict__ codes, Index m, int k, int n_codes, int bins,
                     const double* __restrict__ count_log_count, double* entropy) {
    DYNAMIC_SHARED(shared);
    int* counts = reinterpret_cast<int*>(shared) + warp_in_block() * bins;
    for (int b = lane(); b < bins; b += WARP) counts[b] = 0;
    __syncwarp();
    for (Index cell = warp_in_grid(); cell < m; cell += warps_in_grid()) {
        double total = 0.0;
        for (int first_code = 0; first_code < n_codes; first_code += bins) {
            for (int j = lane(); j <= k; j += WARP) {
                const int code = j < k ? codes[indices[cell * indices_stride + j]] : own[cell];
                const int bin = code - first_code;
                if (0 <= bin && bin < bins) atomicAdd(&counts[bin], 1);
            }
            __syncwarp();
            for (int b = lane(); b < bins; b += WARP) {
                total += count_log_count[counts[b]];
                counts[b] = 0;
            }
            __syncwarp();
        }
        total = sum_of_lanes<WARP>(total);
        if (lane() == 0) entropy[cell] = fmax(0.0, (count_log_count[k + 1] - total) / (k + 1));
    }
}
