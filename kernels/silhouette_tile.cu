// Add the Euclidean distances of one tile to the sums from every cell to the segments of the other side.
//
//     d_ij = sqrt(max(0, row_terms_i + column_terms_j + products_ij))    0 if i and j are the same cell
//     row_sums[s, i]    += sum of d_ij over the columns j of segment s
//     column_sums[s, j] += sum of d_ij over the rows i of segment s      only if both_sides = 1
//
// Cells are sorted so that the cells of a segment (a cluster in a group) are contiguous. A tile may hold a part of one
// segment or many small segments on either side. On the diagonal of the matrix of all distances a tile is its own
// mirror image, and both_sides = 0 counts every distance once.
//
// The products are -2 x.y, from cuBLAS; the terms are squared norms. If rows and columns are centred on different means
// m and m', the terms |x + m - m'|^2 and |y|^2 - 2 y.(m - m') give the same distances from the same products, and the
// products and their rounding errors stay small. For a tile of squared distances the terms are 0.
//
// Rounding. A squared distance below `close` would consist of rounding errors, so a whole warp recomputes it from the
// differences of the two cells. This is rarely needed.
//
// Determinism. Each distance is rounded to an integer, rint(d * unit), and integers are summed, shifted left to the
// unit of the sums: the bits do not depend on the grid or on the order of the atomics. This needs d * unit < 2^23:
// float32 has no more digits, and the sum over a strip's row fits 32 bits. A unit per tile, instead of one for all
// tiles, keeps the other distances exact in the presence of outliers.
//
// Shapes  products (n_rows, products_stride) float32: stride a multiple of 4, 16-byte aligned; a lane reads 4 columns
//         row_terms, column_terms (n_rows), (n_columns) float32
//         row_segments, column_segments (n_rows), (n_columns) int32, ascending, relative to the first row of the sums
//         first_row, first_column: sorted position of the first row and column
//         x (n, d) float32, as given by the user; scale converts differences of x to the unit of the products
//         order (n) int32, the cell at each sorted position
//         row_sums (column segments, n_rows) and column_sums (row segments, n_columns) int64, added to; their rows are
//         row_sums_stride and column_sums_stride elements apart
// Launch  a warp per strip of 32 rows x 128 columns; at most 128 threads; 4224 bytes of shared memory per warp
// Bytes   reads 4 per distance (from L2 if the tile fits); adds 8 per row and column of a strip, 4 % of that
// Twin    silhouette_tile in gpubench/engines/cpu/silhouette.py

constexpr int STRIP_ROWS = WARP;
constexpr int LANE_COLUMNS = 4;
constexpr int STRIP_COLUMNS = WARP * LANE_COLUMNS;
constexpr int ROWS_IN_FLIGHT = 4;         // loads per lane that are in flight at the same time
constexpr int PARTIAL_STRIDE = WARP + 1;  // one more than a warp, so that columns are spread over all banks

// Adjacent float32 values in [2^23, 2^24) are 1 apart: adding 2^23 rounds to an integer, stored in the low bits.
constexpr float ROUND_TO_INTEGER = 8388608.0f;
constexpr unsigned ROUND_TO_INTEGER_BITS = 0x4b000000u;

constexpr float TINY = 1e-37f;  // above the subnormal numbers, which the GPU flushes to 0

struct Tile {
    const float* products;
    Index products_stride;
    const float* row_terms;
    const float* column_terms;
    const int* row_segments;
    Index first_row;
    Index first_column;
    float unit;
    int shift;
};

struct Cells {
    const float* x;
    const int* order;
    int d;
    float scale;
    float close;
};

// Where the distances between a strip of rows and columns of one segment are added.
struct Sums {
    long long* rows;
    long long* columns;  // nullptr if only the row sums are needed
    Index columns_stride;
};

__device__ inline unsigned fixed_point(float squared, float unit) {
    const float distance = fmaxf(squared, 0.0f) * rsqrtf(fmaxf(squared, TINY));
    return __float_as_uint(fmaf(distance, unit, ROUND_TO_INTEGER)) - ROUND_TO_INTEGER_BITS;
}

// Return the squared distance of two cells from their differences. All lanes of the warp must call it.
__device__ inline float squared_difference(const Cells& cells, Index position, Index other_position) {
    const float* a = cells.x + static_cast<Index>(cells.order[position]) * cells.d;
    const float* b = cells.x + static_cast<Index>(cells.order[other_position]) * cells.d;
    float total = 0.0f;
    for (int t = lane(); t < cells.d; t += WARP) {
        const float difference = a[t] * cells.scale - b[t] * cells.scale;
        total = fmaf(difference, difference, total);
    }
    return sum_of_lanes<WARP>(total);
}

// Recompute the squared distances that are too small to be accurate: `near` has a bit for each of the lane's columns.
// All lanes of the warp must call it. Not inlined, because it is rarely called, and long where it is unrolled.
__device__ __noinline__ float4 refine(const Cells& cells, float4 tile, unsigned near, Index row, Index column) {
    float squared[LANE_COLUMNS] = {tile.x, tile.y, tile.z, tile.w};
#pragma unroll
    for (int c = 0; c < LANE_COLUMNS; ++c) {
        unsigned lanes = __ballot_sync(ALL_LANES, near >> c & 1u);
        for (; lanes != 0; lanes &= lanes - 1) {
            const int source = __ffs(static_cast<int>(lanes)) - 1;
            const Index other = column + (source - lane()) * LANE_COLUMNS + c;
            const float exact = squared_difference(cells, row, other);
            if (lane() == source) squared[c] = exact;
        }
    }
    return float4{squared[0], squared[1], squared[2], squared[3]};
}

__device__ inline void flush_columns(long long* sums, unsigned (&column_sums)[LANE_COLUMNS], int shift) {
    for (int c = 0; c < LANE_COLUMNS; ++c) {
        if (column_sums[c] != 0) atomic_add(sums + c, static_cast<long long>(column_sums[c]) << shift);
        column_sums[c] = 0;
    }
}

// Add rows [row, row + n_rows) and columns [begin, end), all of one segment, of a strip that begins at `strip_column`.
__device__ void add_strip(const Tile& tile, const Cells& cells, const Sums& sums, unsigned* partial, int row,
                          int n_rows, int strip_column, int begin, int end) {
    const int column = strip_column + LANE_COLUMNS * lane();
    float column_terms[LANE_COLUMNS];
    unsigned column_sums[LANE_COLUMNS] = {};
    unsigned inside = 0;
    for (int c = 0; c < LANE_COLUMNS; ++c) {
        inside |= static_cast<unsigned>(begin <= column + c && column + c < end) << c;
        column_terms[c] = inside >> c & 1u ? tile.column_terms[column + c] : 0.0f;
    }
    // each lane holds the term and the segment of one row, which are at hand without a load that all lanes wait for
    const int own_row = row + min(lane(), n_rows - 1);
    const float lane_term = tile.row_terms[own_row];
    const int lane_segment = tile.row_segments[own_row];
    const float close = cells.close;
    int row_segment = __shfl_sync(ALL_LANES, lane_segment, 0);
    for (int r = 0; r < n_rows; r += ROWS_IN_FLIGHT) {
        float4 products[ROWS_IN_FLIGHT];
#pragma unroll
        for (int u = 0; u < ROWS_IN_FLIGHT; ++u) {
            const float* source = tile.products + (row + r + u) * tile.products_stride + column;
            products[u] = r + u < n_rows && inside ? *reinterpret_cast<const float4*>(source) : float4{};
        }
#pragma unroll
        for (int u = 0; u < ROWS_IN_FLIGHT; ++u) {
            const int i = row + r + u;
            if (r + u >= n_rows) break;
            const int segment = __shfl_sync(ALL_LANES, lane_segment, r + u);
            const float row_term = __shfl_sync(ALL_LANES, lane_term, r + u);
            if (sums.columns && segment != row_segment) {
                flush_columns(sums.columns + row_segment * sums.columns_stride + column, column_sums, tile.shift);
                row_segment = segment;
            }
            const float4 p = products[u];
            float squared[LANE_COLUMNS] = {row_term + column_terms[0] + p.x, row_term + column_terms[1] + p.y,
                                           row_term + column_terms[2] + p.z, row_term + column_terms[3] + p.w};
            unsigned counted = inside;
            const Index itself = tile.first_row + i - tile.first_column - column;
            if (0 <= itself && itself < LANE_COLUMNS) counted &= ~(1u << itself);
            unsigned near = 0;
            for (int c = 0; c < LANE_COLUMNS; ++c) near |= static_cast<unsigned>(squared[c] < close) << c;
            near &= counted;
            if (__any_sync(ALL_LANES, near != 0)) {
                const float4 given{squared[0], squared[1], squared[2], squared[3]};
                const float4 exact = refine(cells, given, near, tile.first_row + i, tile.first_column + column);
                squared[0] = exact.x;
                squared[1] = exact.y;
                squared[2] = exact.z;
                squared[3] = exact.w;
            }
            unsigned row_sum = 0;
            for (int c = 0; c < LANE_COLUMNS; ++c) {
                const unsigned fixed = counted >> c & 1u ? fixed_point(squared[c], tile.unit) : 0u;
                row_sum += fixed;
                column_sums[c] += fixed;
            }
            partial[(r + u) * PARTIAL_STRIDE + lane()] = row_sum;
        }
    }
    __syncwarp();
    if (lane() < n_rows) {
        unsigned row_sum = 0;
        for (int other = 0; other < WARP; ++other) row_sum += partial[lane() * PARTIAL_STRIDE + other];
        atomic_add(sums.rows + row + lane(), static_cast<long long>(row_sum) << tile.shift);
    }
    __syncwarp();
    if (sums.columns) {
        flush_columns(sums.columns + row_segment * sums.columns_stride + column, column_sums, tile.shift);
    }
}

// Return the end, at most `stop`, of the run of equal codes that begins at `begin`; codes ascend.
__device__ inline int end_of_run(const int* codes, int begin, int stop) {
    int inside = begin, outside = stop;
    if (codes[stop - 1] == codes[begin]) return stop;
    while (outside - inside > 1) {
        const int middle = (inside + outside) / 2;
        (codes[middle] == codes[begin] ? inside : outside) = middle;
    }
    return outside;
}

extern "C" __global__ void __launch_bounds__(128)
    silhouette_tile(const float* __restrict__ products, Index products_stride, const float* __restrict__ row_terms,
                    const float* __restrict__ column_terms, const int* __restrict__ row_segments,
                    const int* __restrict__ column_segments, int n_rows, int n_columns, Index first_row,
                    Index first_column, const float* __restrict__ x, const int* __restrict__ order, int d, float scale,
                    float close, float unit, int shift, int both_sides, long long* row_sums, Index row_sums_stride,
                    long long* column_sums, Index column_sums_stride) {
    DYNAMIC_SHARED(shared);
    unsigned* partial = reinterpret_cast<unsigned*>(shared) + warp_in_block() * STRIP_ROWS * PARTIAL_STRIDE;
    const Tile tile{products,  products_stride, row_terms, column_terms, row_segments,
                    first_row, first_column,    unit,      shift};
    const Cells cells{x, order, d, scale, close};
    const int strips_across = (n_columns + STRIP_COLUMNS - 1) / STRIP_COLUMNS;
    const int strips_down = (n_rows + STRIP_ROWS - 1) / STRIP_ROWS;
    const Index n_strips = static_cast<Index>(strips_down) * strips_across;
    for (Index strip = warp_in_grid(); strip < n_strips; strip += warps_in_grid()) {
        const int row = static_cast<int>(strip / strips_across) * STRIP_ROWS;
        const int column = static_cast<int>(strip % strips_across) * STRIP_COLUMNS;
        const int rows = min(STRIP_ROWS, n_rows - row);
        const int stop = min(column + STRIP_COLUMNS, n_columns);
        for (int begin = column, end; begin < stop; begin = end) {
            end = end_of_run(column_segments, begin, stop);
            const Sums sums{row_sums + column_segments[begin] * row_sums_stride, both_sides ? column_sums : nullptr,
                            column_sums_stride};
            add_strip(tile, cells, sums, partial, row, rows, column, begin, end);
        }
    }
}
