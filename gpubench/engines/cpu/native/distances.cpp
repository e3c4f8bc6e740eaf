// Sums of Euclidean distances between cells of expression, most of which is zero; called by mean_distances.py.
//
// Genes that many cells express are columns of a dense block, centred so that products lose few digits. The other,
// rare ones are left as they are: a cell adds a product only for each of its own nonzero values, for all cells of a
// panel at once.

#include "product.hpp"

namespace {

constexpr float NO_SQUARES[ROWS > COLUMNS ? ROWS : COLUMNS] = {};

// Cells with d common genes as a dense block and their nonzero values of rare genes, those of cell i from starts[i] to
// starts[i + 1]; squares (n,) are squared norms over all genes.
struct Cells {
    const float* common;
    const float* squares;
    const int64_t* starts;
    const int32_t* genes;
    const float* values;
};

// COLUMNS cells of the right side, by gene. Columns beyond the last cell have weight 0.
struct Panel {
    std::vector<float> common, rare, squares, weights;
    int64_t first = 0, n = 0;

    void fill(const Cells& cells, const float* cell_weights, int64_t start, int64_t stop, int64_t d, int64_t n_rare) {
        first = start;
        n = stop - start;
        common.resize(d * COLUMNS);
        pack(cells.common + start * d, n, d, COLUMNS, 1.0f, common.data());
        rare.assign(n_rare * COLUMNS, 0.0f);
        squares.assign(COLUMNS, 0.0f);
        weights.assign(COLUMNS, 0.0f);
        for (int64_t j = 0; j < n; ++j) {
            squares[j] = cells.squares[start + j];
            weights[j] = cell_weights[start + j];
            for (int64_t p = cells.starts[start + j]; p < cells.starts[start + j + 1]; ++p)
                rare[int64_t(cells.genes[p]) * COLUMNS + j] = cells.values[p];
        }
    }
};

// Add -2 x.y over the rare genes of one row and all columns of a panel, in two chains: additions wait for each other.
inline void add_rare(const Cells& left, int64_t row, const Panel& panel, Vector (&products)[VECTORS]) {
    const float* const rare = panel.rare.data();
    int64_t p = left.starts[row];
    const int64_t stop = left.starts[row + 1];
    Vector even[VECTORS] = {}, odd[VECTORS] = {};
    for (; p + 1 < stop; p += 2) {
        const float *const first = rare + int64_t(left.genes[p]) * COLUMNS, *const second =
                                                                                rare +
                                                                                int64_t(left.genes[p + 1]) * COLUMNS;
        for (int v = 0; v < VECTORS; ++v) even[v] += left.values[p] * load(first + v * LANES);
        for (int v = 0; v < VECTORS; ++v) odd[v] += left.values[p + 1] * load(second + v * LANES);
    }
    if (p < stop)
        for (int v = 0; v < VECTORS; ++v)
            even[v] += left.values[p] * load(rare + int64_t(left.genes[p]) * COLUMNS + v * LANES);
    for (int v = 0; v < VECTORS; ++v) products[v] -= 2.0f * (even[v] + odd[v]);
}

// Squared distance of one row of a strip to one column of a panel, from differences.
double difference(const float* strip, int i, const Cells& left, int64_t row, const Panel& panel, int64_t j, int64_t d) {
    double sum = 0;
    for (int64_t p = 0; p < d; ++p) {
        const double difference = -0.5 * double(strip[p * ROWS + i]) - double(panel.common[p * COLUMNS + j]);
        sum += difference * difference;
    }
    const int64_t n_rare = int64_t(panel.rare.size()) / COLUMNS;
    int64_t at = left.starts[row];
    for (int64_t gene = 0; gene < n_rare; ++gene) {
        double difference = -double(panel.rare[gene * COLUMNS + j]);
        if (at < left.starts[row + 1] && left.genes[at] == gene) difference += double(left.values[at++]);
        sum += difference * difference;
    }
    return sum;
}

// Replace squared distances that the product has lost the digits of.
__attribute__((noinline)) void mend(Tile& tile, const float* strip, const Cells& left, int64_t row, int64_t n_rows,
                                    const Panel& panel, int64_t d, float close) {
    for (int64_t i = 0; i < n_rows; ++i) {
        float values[COLUMNS];
        for (int v = 0; v < VECTORS; ++v) store(values + v * LANES, tile[i][v]);
        for (int64_t j = 0; j < panel.n; ++j)
            if (values[j] < close * left.squares[row + i])
                values[j] = float(difference(strip, int(i), left, row + i, panel, j, d));
        for (int v = 0; v < VECTORS; ++v) tile[i][v] = load(values + v * LANES);
    }
}

double sum_of(Vector v) {
    double sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += double(v[lane]);
    return sum;
}

}  // namespace

EXPORT int64_t strip_rows() { return ROWS; }

// Pack (n, d) rows in strips of strip_rows(), times -2: the left side of distance_sums.
EXPORT void pack_strips(const float* rows, int64_t n, int64_t d, float* out) { pack(rows, n, d, ROWS, -2.0f, out); }

// Divide the values of n rows of a CSR matrix with sorted indices into common and rare genes.
//
// place (n_genes,): column of a common gene in the block; -1 - number of a rare gene. Written: common (n, d) minus
// center (d,), starts (n + 1,) with genes and values of rare genes, squares (n,) over all genes.
EXPORT void split_genes(const float* values, const int32_t* indices, const int64_t* indptr, const int64_t* rows,
                        int64_t n, const int32_t* place, const float* center, int64_t d, float* common, int64_t* starts,
                        int32_t* genes, float* rare, float* squares) {
    int64_t at = 0;
    for (int64_t i = 0; i < n; ++i) {
        float* const own = common + i * d;
        for (int64_t p = 0; p < d; ++p) own[p] = -center[p];
        double square = 0;
        starts[i] = at;
        for (int64_t p = indptr[rows[i]]; p < indptr[rows[i] + 1]; ++p) {
            const int32_t to = place[indices[p]];
            if (to >= 0) {
                own[to] += values[p];
            } else {
                genes[at] = -1 - to;
                rare[at++] = values[p];
                square += double(values[p]) * double(values[p]);
            }
        }
        for (int64_t p = 0; p < d; ++p) square += double(own[p]) * double(own[p]);
        squares[i] = float(square);
    }
    starts[n] = at;
}

// Sum the distances of the left cells [row_start, row_stop) to the right cells [column_start, column_stop), each times
// the weight of the right cell, into sums (row_stop - row_start,).
//
// left_strips: common genes of the left side from pack_strips; row_start is a multiple of strip_rows(). `same`: both
// sides are the same cells, and only distances to later cells are summed. Squared distances below the share `close` of
// the left cell's squared norm are computed again from differences.
EXPORT void distance_sums(const float* left_strips, const float* left_squares, const int64_t* left_starts,
                          const int32_t* left_genes, const float* left_values, int64_t row_start, int64_t row_stop,
                          const float* right_common, const float* right_squares, const int64_t* right_starts,
                          const int32_t* right_genes, const float* right_values, const float* weights,
                          int64_t column_start, int64_t column_stop, int64_t d, int64_t n_rare, int32_t same,
                          float close, double* sums) {
    const Cells left{left_strips, left_squares, left_starts, left_genes, left_values};
    const Cells right{right_common, right_squares, right_starts, right_genes, right_values};
    static thread_local Panel panel;
    std::fill_n(sums, row_stop - row_start, 0.0);
    for (int64_t column = column_start; column < column_stop; column += COLUMNS) {
        panel.fill(right, weights, column, std::min(column + COLUMNS, column_stop), d, n_rare);
        const int64_t last_row = same ? std::min(row_stop, column + panel.n - 1) : row_stop;
        for (int64_t row = row_start; row < last_row; row += ROWS) {
            const int64_t n_rows = std::min<int64_t>(ROWS, row_stop - row);
            const float* const strip = left.common + row * d;
            Tile tile;
            // squares are added last: products alone are small, and lose fewer digits while they are summed
            squared_distances(strip, NO_SQUARES, panel.common.data(), NO_SQUARES, d, tile);
            uint64_t any = 0;
            for (int64_t i = 0; i < n_rows; ++i) {
                Vector products[VECTORS] = {};
                add_rare(left, row + i, panel, products);
                const float square = left.squares[row + i];
                for (int v = 0; v < VECTORS; ++v) {
                    tile[i][v] += products[v];
                    tile[i][v] += square + load(&panel.squares[v * LANES]);
                    any |= below(tile[i][v], everywhere(close * square));
                }
            }
            if (any) mend(tile, strip, left, row, n_rows, panel, d, close);
            for (int64_t i = 0; i < n_rows; ++i) {
                const int64_t earlier = same ? row + i + 1 - column : 0;  // columns that do not count
                Vector total{};
                for (int v = 0; v < VECTORS; ++v) {
                    Vector counted = load(&panel.weights[v * LANES]);
                    for (int lane = 0; lane < LANES && v * LANES + lane < earlier; ++lane) counted[lane] = 0;
                    const Vector squared = tile[i][v];
                    total += counted * root(squared > 0 ? squared : Vector{});
                }
                sums[row - row_start + i] += sum_of(total);
            }
        }
    }
}
