// Sums of distances between two blocks of cells; called by tiles.py, which has the same in NumPy.

#include "product.hpp"

namespace {

// Sums of the distances of one tile by the segments of its rows and columns.
class TileSums {
  public:
    TileSums(const float* left, const float* right, int64_t m, int64_t n, int64_t d, bool same, float close)
        : left_(left), right_(right), m_(m), n_(n), d_(d), same_(same), close_(close) {}

    int64_t n_close() const { return n_close_; }

    // Turn squared distances into distances. Those so small that the product has lost their digits are computed from
    // differences.
    void roots(Tile& tile, int64_t row, int64_t column) {
        uint64_t any = 0;
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v) any |= below(tile[i][v], everywhere(close_));
        if (any) mend(tile, row, column);
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v) tile[i][v] = root(tile[i][v]);
    }

  private:
    __attribute__((noinline)) void mend(Tile& tile, int64_t row, int64_t column) {
        for (int64_t i = 0; i < std::min<int64_t>(ROWS, m_ - row); ++i) {
            float values[COLUMNS];
            for (int v = 0; v < VECTORS; ++v) store(values + v * LANES, tile[i][v]);
            for (int64_t j = 0; j < std::min<int64_t>(COLUMNS, n_ - column); ++j) {
                if (!(values[j] < close_)) continue;
                const bool itself = same_ && row + i == column + j;
                values[j] = itself ? 0.0f : difference(row + i, column + j);
                n_close_ += !itself;
            }
            for (int v = 0; v < VECTORS; ++v) tile[i][v] = load(values + v * LANES);
        }
    }

    float difference(int64_t row, int64_t column) const {
        float sum = 0;
        for (int64_t p = 0; p < d_; ++p) {
            const float difference = left_[row * d_ + p] - right_[column * d_ + p];
            sum += difference * difference;
        }
        return sum;
    }

    const float *left_, *right_;
    int64_t m_, n_, d_;
    bool same_;
    float close_;
    int64_t n_close_ = 0;
};

float sum(const float* values, int64_t n) {
    float sums[64] = {}, rest = 0;
    int64_t j = 0;
    for (; j + 64 <= n; j += 64)
        for (int lane = 0; lane < 64; ++lane) sums[lane] += values[j + lane];
    for (; j < n; ++j) rest += values[j];
    for (int half = 32; half; half /= 2)
        for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    return sums[0] + rest;
}

// Add n <= ROWS rows to `to`, summed first, so that a long sum is rounded less often.
void add_rows(const float* rows, int64_t n, int64_t width, float* to) {
    for (int64_t j = 0; j < width; j += LANES) {
        Vector total = load(rows + j);
        for (int64_t i = 1; i < n; ++i) total += load(rows + i * width + j);
        store(to + j, load(to + j) + total);
    }
}

}  // namespace

// Sum the Euclidean distances between m rows and n columns over the columns of each segment and the rows of each
// segment.
//
// left (m, d) and right (n, d) with their squared norms; `same`: both are the same cells, at distance 0 from
// themselves. Squared distances below `close` are computed from differences; returns how many there were. left_cuts,
// right_cuts: first row or column of each segment, from 0 on. Written: row_sums (right segments, m), column_sums (left
// segments, n).
EXPORT int64_t silhouette_tile(const float* left, const float* left_squares, int64_t m, const float* right,
                               const float* right_squares, int64_t n, int64_t d, int32_t same, float close,
                               const int64_t* left_cuts, int64_t n_left, const int64_t* right_cuts, int64_t n_right,
                               double* row_sums, double* column_sums) {
    const int64_t width = rounded_up(n, COLUMNS);
    static thread_local Left rows;
    static thread_local std::vector<float> panels, squares, strip, sums;
    rows.fill(left, left_squares, m, d);
    panels.resize(width * d);
    pack(right, n, d, COLUMNS, 1.0f, panels.data());
    squares.assign(width, 0.0f);
    std::copy(right_squares, right_squares + n, squares.begin());
    strip.resize(ROWS * width);
    sums.assign(n_left * width, 0.0f);
    TileSums distances(left, right, m, n, d, same, close);
    int64_t segment = 0;
    for (int64_t row = 0; row < m; row += ROWS) {
        for (int64_t column = 0; column < n; column += COLUMNS) {
            Tile tile;
            squared_distances(&rows.rows[row * d], &rows.squares[row], &panels[column * d], &squares[column], d, tile);
            distances.roots(tile, row, column);
            for (int i = 0; i < ROWS; ++i)
                for (int v = 0; v < VECTORS; ++v) store(&strip[i * width + column + v * LANES], tile[i][v]);
        }
        const int64_t rows_here = std::min<int64_t>(ROWS, m - row);
        for (int64_t i = 0; i < rows_here; ++i)
            for (int64_t s = 0; s < n_right; ++s) {
                const int64_t stop = s + 1 < n_right ? right_cuts[s + 1] : n;
                row_sums[s * m + row + i] = sum(&strip[i * width + right_cuts[s]], stop - right_cuts[s]);
            }
        for (int64_t i = 0; i < rows_here;) {
            while (segment + 1 < n_left && left_cuts[segment + 1] <= row + i) ++segment;
            const int64_t left_over = (segment + 1 < n_left ? left_cuts[segment + 1] : m) - row;
            const int64_t stop = std::min(rows_here, left_over);
            add_rows(&strip[i * width], stop - i, width, &sums[segment * width]);
            i = stop;
        }
    }
    for (int64_t s = 0; s < n_left; ++s) std::copy(&sums[s * width], &sums[s * width] + n, column_sums + s * n);
    return distances.n_close();
}
