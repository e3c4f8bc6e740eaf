// Compute UMAP's membership strength of each cell's neighbours in its fuzzy set.
//
//     w_ij = exp(-max(0, d_ij - rho_i) / sigma_i)
//
// rho_i is the smallest positive distance of cell i. sigma_i makes the k memberships sum to log2(k + 1); it is found by
// bisection in float32, in units of the largest d_ij - rho_i, so that the scale of the data does not matter. sigma_i is
// at least a thousandth of the mean distance over the k neighbours and the cell itself, or of the mean over all cells
// (`mean_distance`) where the cell has no positive distance. The memberships are computed in float64.
//
// Shapes  distances (n, k) float32, ascending in each row, rows distances_stride elements apart
//         memberships (n, k) float64, written
// Launch  8 lanes per cell
// Bytes   reads 4 k per cell (from L1 again in each step of the bisection), writes 8 k
// Twin    fuzzy_memberships in gpubench/engines/cpu/kernels.py

constexpr int CELL_LANES = 8;
constexpr int MAX_STEPS = 64;
constexpr float CLOSE_ENOUGH = 1e-5f;
constexpr double MIN_SIGMA_SHARE = 1e-3;

// Return the smallest positive distance of an ascending row, or 0.
__device__ inline float smallest_positive(const float* row, int k) {
    int zeros = 0;
    while (zeros < k && row[zeros] <= 0.0f) ++zeros;
    return zeros < k ? row[zeros] : 0.0f;
}

// Return the bandwidth of the cell of each group of lanes, in units of `reach`, the largest distance beyond `nearest`.
// All lanes of the warp must call it.
__device__ inline float bandwidth(const float* row, int k, float nearest, float reach, float target) {
    float low = 0.0f, high = 0.0f, sigma = 1.0f;  // high stays 0 until an upper bound is known
    bool done = reach <= 0.0f;
    for (int step = 0; step < MAX_STEPS && __any_sync(ALL_LANES, !done); ++step) {
        float total = 0.0f;
        for (int j = lane() % CELL_LANES; j < k; j += CELL_LANES) {
            total += done ? 0.0f : expf(-fmaxf(row[j] - nearest, 0.0f) / reach / sigma);
        }
        total = sum_of_lanes<CELL_LANES>(total);
        done = done || fabsf(total - target) < CLOSE_ENOUGH;
        if (done) continue;
        (total > target ? high : low) = sigma;
        sigma = high == 0.0f ? 2.0f * sigma : 0.5f * (low + high);
    }
    return sigma;
}

extern "C" __global__ void __launch_bounds__(256)
    fuzzy_memberships(const float* __restrict__ distances, Index distances_stride, Index n, int k, double mean_distance,
                      double* memberships) {
    constexpr int WARP_CELLS = WARP / CELL_LANES;
    const float target = log2f(static_cast<float>(k + 1));
    for (Index first = warp_in_grid() * WARP_CELLS; first < n; first += warps_in_grid() * WARP_CELLS) {
        // all lanes must take part in votes and shuffles: those beyond the last cell repeat it
        const Index cell = min(first + lane() / CELL_LANES, n - 1);
        const float* row = distances + cell * distances_stride;
        const float nearest = smallest_positive(row, k);
        const float reach = row[k - 1] - nearest;
        double mean = 0.0;
        for (int j = lane() % CELL_LANES; j < k; j += CELL_LANES) mean += static_cast<double>(row[j]);
        mean = sum_of_lanes<CELL_LANES>(mean) / (k + 1);
        const double unbounded =
            static_cast<double>(bandwidth(row, k, nearest, reach, target)) * static_cast<double>(reach);
        const double sigma = fmax(unbounded, MIN_SIGMA_SHARE * (nearest > 0.0f ? mean : mean_distance));
        if (first + lane() / CELL_LANES >= n) continue;
        for (int j = lane() % CELL_LANES; j < k; j += CELL_LANES) {
            const double beyond = static_cast<double>(row[j]) - static_cast<double>(nearest);
            memberships[cell * k + j] = beyond > 0.0 && sigma > 0.0 ? exp(-beyond / sigma) : 1.0;
        }
    }
}
