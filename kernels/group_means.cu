// Compute the mean of the rows of each group, summed in float64.
//
//     means_gj = (sum of x_ij over the rows i of group g) / n_g      NaN for a group without rows
//
// A block takes one group and 32 columns: its lanes read 32 neighbouring columns of a row, each of its 8 warps reads
// every 8th row, and the sums of the warps are added in shared memory in a fixed order.
//
// Shapes  x (n, d) float32
//         order (n) int32, the rows sorted by group; starts (n_groups + 1) int64, where each group begins in `order`
//         means (n_groups, d) float64, written
// Launch  blocks of exactly 256 threads, one per (group, 32 columns); 2048 bytes of shared memory per block
// Bytes   reads 4 d + 4 per row (`order` again for each 32 columns), writes 8 d per group
// Twin    group_means in gpubench/engines/cpu/kernels.py

constexpr int GROUP_WARPS = 8;

extern "C" __global__ void __launch_bounds__(256)
    group_means(const float* __restrict__ x, const int* __restrict__ order, const Index* __restrict__ starts,
                int n_groups, int d, double* means) {
    DYNAMIC_SHARED(shared);
    double* sums = reinterpret_cast<double*>(shared);
    const int strips = (d + WARP - 1) / WARP;
    for (Index task = blockIdx.x; task < static_cast<Index>(n_groups) * strips; task += gridDim.x) {
        const Index group = task / strips;
        const int column = static_cast<int>(task % strips) * WARP + lane();
        double sum = 0.0;
        if (column < d) {
#pragma unroll 4
            for (Index i = starts[group] + warp_in_block(); i < starts[group + 1]; i += GROUP_WARPS) {
                sum += static_cast<double>(x[static_cast<Index>(order[i]) * d + column]);
            }
        }
        sums[threadIdx.x] = sum;
        __syncthreads();
        if (warp_in_block() == 0 && column < d) {
            double total = 0.0;
            for (int w = 0; w < GROUP_WARPS; ++w) total += sums[w * WARP + lane()];
            means[group * d + column] = total / static_cast<double>(starts[group + 1] - starts[group]);
        }
        __syncthreads();
    }
}
