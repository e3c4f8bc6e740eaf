// Update the candidate neighbours of each row with a tile of distances.
//
//     key_ij = column_terms_j + products_ij = |y_j|^2 - 2 x_i.y_j = |x_i - y_j|^2 - |x_i|^2
//
// A row keeps the `keep` cells with the smallest (key, id). |x_i|^2 is the same for all of them and is left out, and so
// is its rounding. For a tile of squared distances the column terms are 0. Ties in the key go to the smaller id, so the
// candidates depend neither on the tiles nor on the grid. A product of NaN is never a candidate: where rows and columns
// are in different orders, the host excludes a cell from its own neighbours that way.
//
// Candidates below the row's limit are appended to its buffer. A full buffer is cut back to the best `keep` by radix
// selection, and the worst of them becomes the new limit. As the limit falls, almost no candidate passes: a warp checks
// 512 columns with 4 loads per lane and one vote. With last = 1 every row is cut back to at most `keep`, in any order.
//
// Shapes  products (n_rows, products_stride) float32: stride a multiple of 4, 16-byte aligned
//         column_terms (n_columns) float32: 16-byte aligned
//         first_row: id of the first row if rows and columns are the same cells in the same order, else -1
//         first_column: id of the first column
//         candidates (n_rows, capacity) uint64: capacity >= keep + 32
//         counts (n_rows) int32, initially 0
//         limits (n_rows) uint64, initially NO_CANDIDATE; no cell outside of the candidates has a key below its row's
// Launch  a warp per row; 1024 bytes of shared memory per warp
// Bytes   reads 4 per distance (from L2 if the tile fits) and 20 per row; touches candidates only where some pass
// Twin    topk_update in gpubench/engines/cpu/kernels.py

constexpr int LANE_COLUMNS = 4;
constexpr int VOTE_COLUMNS = 4 * LANE_COLUMNS * WARP;  // 4 loads per lane are in flight at the same time
constexpr int DIGIT_BITS = 8;
constexpr int DIGITS = 1 << DIGIT_BITS;
constexpr int LANE_DIGITS = DIGITS / WARP;

// Return the digit at which the cumulative counts reach `rank`; `rank` becomes the rank within that digit. All lanes of
// the warp must call it.
__device__ inline unsigned digit_of_rank(const int* histogram, int& rank) {
    int in_lane = 0;
    for (int b = 0; b < LANE_DIGITS; ++b) in_lane += histogram[lane() * LANE_DIGITS + b];
    int up_to_lane = in_lane;
    for (int step = 1; step < WARP; step *= 2) {
        const int below = __shfl_up_sync(ALL_LANES, up_to_lane, static_cast<unsigned>(step));
        if (lane() >= step) up_to_lane += below;
    }
    const unsigned reached = __ballot_sync(ALL_LANES, up_to_lane >= rank);
    const int owner = __ffs(static_cast<int>(reached)) - 1;
    int digit = lane() * LANE_DIGITS;
    int rank_in_digit = rank - (up_to_lane - in_lane);
    if (lane() == owner) {
        while (rank_in_digit > histogram[digit]) rank_in_digit -= histogram[digit++];
    }
    rank = __shfl_sync(ALL_LANES, rank_in_digit, owner);
    return static_cast<unsigned>(__shfl_sync(ALL_LANES, digit, owner));
}

// Return the keep-th smallest of `count` distinct candidates, found digit by digit from the highest. All lanes of the
// warp must call it.
__device__ inline Candidate select(const Candidate* entries, int count, int keep, int* histogram) {
    Candidate found = 0, digits_found = 0;
    for (int shift = 64 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        for (int b = lane(); b < DIGITS; b += WARP) histogram[b] = 0;
        __syncwarp();
        for (int e = lane(); e < count; e += WARP) {
            if ((entries[e] & digits_found) == found) atomicAdd(&histogram[entries[e] >> shift & (DIGITS - 1)], 1);
        }
        __syncwarp();
        found |= static_cast<Candidate>(digit_of_rank(histogram, keep)) << shift;
        digits_found |= static_cast<Candidate>(DIGITS - 1) << shift;
        __syncwarp();
    }
    return found;
}

// Move the best `keep` of `count` candidates to the front and return the worst of them. All lanes of the warp must call
// it. Not inlined, because it is rarely called and long.
__device__ __noinline__ Candidate cut_back(Candidate* entries, int count, int keep, int* histogram) {
    const Candidate worst = select(entries, count, keep, histogram);
    int n_moved = 0;
    for (int first = 0; first < count; first += WARP) {
        const int e = first + lane();
        const Candidate entry = e < count ? entries[e] : NO_CANDIDATE;
        const unsigned lanes = __ballot_sync(ALL_LANES, entry <= worst);
        // entries only move forward, and all lanes have read theirs
        __syncwarp();
        if (entry <= worst) entries[n_moved + __popc(lanes & ((1u << lane()) - 1))] = entry;
        n_moved += __popc(lanes);
    }
    __syncwarp();
    return worst;
}

struct Row {
    Candidate* entries;
    int count;
    Candidate limit;
};

// Append the candidates below the limit of all lanes that have one. All lanes of the warp must call it.
__device__ inline void append(Row& row, bool is_candidate, Candidate entry, int keep, int capacity, int* histogram) {
    unsigned lanes = __ballot_sync(ALL_LANES, is_candidate && entry < row.limit);
    if (row.count + __popc(lanes) > capacity) {
        row.limit = cut_back(row.entries, row.count, keep, histogram);
        row.count = keep;
        lanes = __ballot_sync(ALL_LANES, is_candidate && entry < row.limit);
    }
    if (lanes >> lane() & 1u) row.entries[row.count + __popc(lanes & ((1u << lane()) - 1))] = entry;
    row.count += __popc(lanes);
}

extern "C" __global__ void __launch_bounds__(256)
    topk_update(const float* __restrict__ products, Index products_stride, const float* __restrict__ column_terms,
                int n_rows, int n_columns, Index first_row, Index first_column, int keep, int capacity, int last,
                Candidate* candidates, int* counts, Candidate* limits) {
    DYNAMIC_SHARED(shared);
    int* histogram = reinterpret_cast<int*>(shared) + warp_in_block() * DIGITS;
    for (Index r = warp_in_grid(); r < n_rows; r += warps_in_grid()) {
        Row row{candidates + r * capacity, counts[r], limits[r]};
        const float* row_products = products + r * products_stride;
        const Index itself = first_row >= 0 ? first_row + r - first_column : -1;
        for (int begin = 0; begin < n_columns; begin += VOTE_COLUMNS) {
            float smallest = key_of(NO_CANDIDATE);
            if (begin + VOTE_COLUMNS <= n_columns) {
#pragma unroll
                for (int first = begin; first < begin + VOTE_COLUMNS; first += LANE_COLUMNS * WARP) {
                    const int column = first + LANE_COLUMNS * lane();
                    const float4 p = *reinterpret_cast<const float4*>(row_products + column);
                    const float4 t = *reinterpret_cast<const float4*>(column_terms + column);
                    smallest = fminf(smallest, fminf(fminf(p.x + t.x, p.y + t.y), fminf(p.z + t.z, p.w + t.w)));
                }
            } else {
                for (int column = begin + lane(); column < n_columns; column += WARP) {
                    smallest = fminf(smallest, row_products[column] + column_terms[column]);
                }
            }
            if (!__any_sync(ALL_LANES, smallest <= key_of(row.limit))) continue;
            for (int first = begin; first < min(begin + VOTE_COLUMNS, n_columns); first += WARP) {
                const int column = first + lane();
                const bool inside = column < n_columns;
                const float key = inside ? row_products[column] + column_terms[column] : 0.0f;
                append(row, inside && column != itself && key == key, candidate(key, first_column + column), keep,
                       capacity, histogram);
            }
        }
        if (last && row.count > keep) {
            row.limit = cut_back(row.entries, row.count, keep, histogram);
            row.count = keep;
        }
        // every lane has read the row's count and limit
        __syncwarp();
        if (lane() == 0) {
            counts[r] = row.count;
            limits[r] = row.limit;
        }
    }
}
