// Offers a tile of distances to the candidate neighbours of each of its rows.
//
//     key_ij = column_terms_j + products_ij = |y_j|^2 - 2 x_i.y_j = |x_i - y_j|^2 - |x_i|^2
//
// A row keeps the `keep` cells with the smallest (key, id); |x_i|^2 is the same for all of them and is left out, which
// also leaves out its rounding. For a tile of squared distances the column terms are 0. Ties in the key go to the
// smaller id, so what is kept does not depend on the tiles or the grid.
//
// Candidates below the row's limit are appended to its buffer; when it is full it is cut back to the best `keep` by
// radix selection, and the worst of them is the new limit. As the limit sinks almost nothing passes any more: a warp
// looks at 512 columns with 4 loads a lane and one vote. With last = 1 every row is cut back to at most `keep`, in any
// order.
//
// A product of NaN is no candidate: so the host leaves out a cell itself where rows and columns are not in the same
// order.
//
// Shapes  products (n_rows, products_stride) float32: stride a multiple of 4, 16-byte aligned
//         column_terms (n_columns) float32
//         first_row: id of the first row where rows and columns are the same cells in the same order, else -1
//         first_column: id of the first column
//         candidates (n_rows, capacity) uint64: capacity >= keep + 32
//         counts (n_rows) int32: 0 at first
//         limits (n_rows) uint64: NO_CANDIDATE at first; no cell that is left out has a key below the limit's
// Launch  a warp a row; 1024 bytes of shared memory a warp
// Bytes   reads 4 a distance (from L2 where the tile fits), and 20 a row; candidates are touched where something passes
// Twin    topk_update in gpubench/engines/cpu/kernels.py

constexpr int LANE_COLUMNS = 4;
constexpr int VOTE_COLUMNS = 4 * LANE_COLUMNS * WARP;  // 4 loads of a lane wait for memory at the same time
constexpr int DIGIT_BITS = 8;
constexpr int DIGITS = 1 << DIGIT_BITS;
constexpr int LANE_DIGITS = DIGITS / WARP;

// The digit at which the counts, summed up from digit 0, reach `wanted`; `wanted` becomes the rank within that digit.
__device__ inline unsigned digit_of_rank(const int* histogram, int& wanted) {
    int in_lane = 0;
    for (int b = 0; b < LANE_DIGITS; ++b) in_lane += histogram[lane() * LANE_DIGITS + b];
    int up_to_lane = in_lane;
    for (int step = 1; step < WARP; step *= 2) {
        const int below = __shfl_up_sync(ALL_LANES, up_to_lane, static_cast<unsigned>(step));
        if (lane() >= step) up_to_lane += below;
    }
    const unsigned reached = __ballot_sync(ALL_LANES, up_to_lane >= wanted);
    const int owner = __ffs(static_cast<int>(reached)) - 1;
    int digit = lane() * LANE_DIGITS;
    int rank = wanted - (up_to_lane - in_lane);
    if (lane() == owner) {
        while (rank > histogram[digit]) rank -= histogram[digit++];
    }
    wanted = __shfl_sync(ALL_LANES, rank, owner);
    return static_cast<unsigned>(__shfl_sync(ALL_LANES, digit, owner));
}

// The keep-th smallest of `count` different candidates, from the highest digit to the lowest; for a whole warp.
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

// Move the best `keep` of `count` candidates to the front, and return the worst of them; for a whole warp. Rare, so
// its code stands in one place.
__device__ __noinline__ Candidate cut_back(Candidate* entries, int count, int keep, int* histogram) {
    const Candidate worst = select(entries, count, keep, histogram);
    int kept = 0;
    for (int first = 0; first < count; first += WARP) {
        const int e = first + lane();
        const Candidate entry = e < count ? entries[e] : NO_CANDIDATE;
        const unsigned lanes = __ballot_sync(ALL_LANES, entry <= worst);
        // entries move forward only, and all lanes have read theirs
        __syncwarp();
        if (entry <= worst) entries[kept + __popc(lanes & ((1u << lane()) - 1))] = entry;
        kept += __popc(lanes);
    }
    __syncwarp();
    return worst;
}

struct Row {
    Candidate* entries;
    int count;
    Candidate limit;
};

// Append the candidates of those lanes that have one below the limit; for a whole warp.
__device__ inline void append(Row& row, bool wanted, Candidate entry, int keep, int capacity, int* histogram) {
    unsigned lanes = __ballot_sync(ALL_LANES, wanted && entry < row.limit);
    if (row.count + __popc(lanes) > capacity) {
        row.limit = cut_back(row.entries, row.count, keep, histogram);
        row.count = keep;
        lanes = __ballot_sync(ALL_LANES, wanted && entry < row.limit);
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
#pragma unroll
            for (int first = begin; first < begin + VOTE_COLUMNS; first += LANE_COLUMNS * WARP) {
                const int column = first + LANE_COLUMNS * lane();
                float4 p{};
                if (column < n_columns) p = *reinterpret_cast<const float4*>(row_products + column);
                const float of_columns[LANE_COLUMNS] = {p.x, p.y, p.z, p.w};
                for (int c = 0; c < LANE_COLUMNS; ++c) {
                    if (column + c < n_columns) smallest = fminf(smallest, of_columns[c] + column_terms[column + c]);
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
