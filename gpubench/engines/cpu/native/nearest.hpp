// The nearest cells of each row, collected over many products.

#pragma once

#include <sched.h>

#include <cmath>
#include <limits>

#include "product.hpp"

// A set of cells, for one row at a time.
class Visited {
  public:
    void clear(size_t at_most) {
        size_t size = 64;
        while (size < 2 * at_most) size *= 2;
        if (slots_.size() < size) slots_.assign(size, 0);
        if (++round_ == 0) {
            slots_.assign(slots_.size(), 0);
            round_ = 1;
        }
    }

    // Add a cell; return whether it was new.
    bool add(uint32_t cell) {
        const uint64_t entry = uint64_t(round_) << 32 | cell;
        for (size_t slot = cell * 0x9E3779B1u & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
            if (slots_[slot] == entry) return false;
            if (slots_[slot] >> 32 != round_) {
                slots_[slot] = entry;
                return true;
            }
        }
    }

  private:
    std::vector<uint64_t> slots_;  // the round in which it was filled, and the cell
    uint32_t round_ = 0;
};

// The nearest cells of each row so far: unordered, and cut back to `keep` when their space is full. Threads lock a row
// while they change it. A limit may be read while another thread lowers it: the old one only accepts more candidates.
struct Nearest {
    int64_t keep, space;
    uint64_t* candidates;  // (rows, space): squared distance in the upper half, so that integers sort like it; column
    int32_t* counts;       // (rows,)
    float* limits;         // (rows,): candidates are below
    char* locks;           // (rows,)
    bool repeats;          // whether a column may be offered again, with another rounding of its distance
    bool ties_count;       // whether ties at the limit are broken by column, so that the order of offers is irrelevant

    void offer(int64_t row, float squared, int64_t column) const {
        while (__atomic_test_and_set(locks + row, __ATOMIC_ACQUIRE)) sched_yield();
        offer_alone(row, squared, column);
        __atomic_clear(locks + row, __ATOMIC_RELEASE);
    }

    // Offer candidates whose columns are positions in `ids`.
    void offer_each(int64_t row, const uint64_t* found, int64_t n_found, const int64_t* ids) const {
        while (__atomic_test_and_set(locks + row, __ATOMIC_ACQUIRE)) sched_yield();
        for (int64_t i = 0; i < n_found; ++i) offer_alone(row, distance_of(found[i]), ids[uint32_t(found[i])]);
        __atomic_clear(locks + row, __ATOMIC_RELEASE);
    }

    // Offer to a row that no other thread changes.
    void offer_alone(int64_t row, float squared, int64_t column) const {
        if (!(squared < limits[row])) return;
        candidates[row * space + counts[row]++] = candidate(squared, column);
        if (counts[row] == space) cut_back(row);
    }

    static uint64_t candidate(float squared, int64_t column) {
        const float positive = std::max(squared, 0.0f);  // rounding may leave a little less than 0
        uint32_t bits;
        std::memcpy(&bits, &positive, sizeof bits);
        return uint64_t(bits) << 32 | uint32_t(column);
    }

    static float distance_of(uint64_t candidate) {
        const uint32_t bits = uint32_t(candidate >> 32);
        float squared;
        std::memcpy(&squared, &bits, sizeof bits);
        return squared;
    }

    void cut_back(int64_t row) const {
        uint64_t* own = candidates + row * space;
        if (repeats) {
            static thread_local Visited visited;
            visited.clear(counts[row]);
            std::sort(own, own + counts[row]);
            int32_t kept = 0;
            for (int32_t i = 0; i < counts[row] && kept < keep; ++i)
                if (visited.add(uint32_t(own[i]))) own[kept++] = own[i];
            counts[row] = kept;
        } else if (counts[row] > keep) {
            std::nth_element(own, own + keep - 1, own + counts[row]);
            counts[row] = int32_t(keep);
        }
        if (counts[row] < keep) return;
        const float farthest = distance_of(*std::max_element(own, own + keep));
        limits[row] = ties_count ? std::nextafter(farthest, std::numeric_limits<float>::infinity()) : farthest;
    }
};

// Compare rows [row_start, row_stop) of `left` with the columns of one panel, and call found(row, column in the panel,
// squared distance) if it is below the limit of either.
template <class Found>
inline __attribute__((always_inline)) void compare(const Left& left, int64_t row_start, int64_t row_stop,
                                                   const float* panel, const float* column_squares, int64_t d,
                                                   const float* row_limits, const float* column_limits,
                                                   const Found& found) {
    for (int64_t row = row_start; row < row_stop; row += ROWS) {
        Tile tile;
        squared_distances(&left.rows[row * d], &left.squares[row], panel, column_squares, d, tile);
        uint64_t any = 0;
        for (int v = 0; v < VECTORS; ++v)
            for (int i = 0; i < ROWS; ++i)
                any |= below(tile[i][v], everywhere(row_limits[row + i])) |
                       below(tile[i][v], load(column_limits + v * LANES));
        if (!any) continue;
        float values[ROWS][COLUMNS];
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v) store(&values[i][v * LANES], tile[i][v]);
        for (int i = 0; i < ROWS && row + i < row_stop; ++i) {
            const Vector limit = everywhere(row_limits[row + i]);
            uint64_t hits = 0;
            for (int v = 0; v < VECTORS; ++v) {
                const Vector squared = load(&values[i][v * LANES]);
                hits |= (below(squared, limit) | below(squared, load(column_limits + v * LANES))) << (v * LANES);
            }
            for (; hits; hits &= hits - 1) {
                const int64_t j = __builtin_ctzll(hits);
                found(row + i, j, values[i][j]);
            }
        }
    }
}

inline double squared_distance(const float* x, const float* y, int64_t d) {
    double sums[8] = {}, rest = 0;
    int64_t p = 0;
    for (; p + 8 <= d; p += 8)
        for (int lane = 0; lane < 8; ++lane) {
            const double difference = double(x[p + lane]) - double(y[p + lane]);
            sums[lane] += difference * difference;
        }
    for (; p < d; ++p) rest += (double(x[p]) - double(y[p])) * (double(x[p]) - double(y[p]));
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])) + rest;
}
