// Rank sums of groups of cells against a control, gene by gene, and sums of groups; called by rank_sums.py.
//
// Zeros are one run of equal values that is counted and never stored. The other values of a gene are collected in the
// order of the groups, the control first, and sorted by value without changing the order of equal ones. One sweep then
// serves all groups: Mann-Whitney's U of a group needs, for each of its cells, only the number of control cells below
// and among the cells of the same value, and its ties grow by 3 t (t - 1) with the t-th cell of a run. All sums are
// integers.

#include <utility>

#include "product.hpp"

namespace {

// Values as unsigned integers of the same order. ZERO is the key of 0, and keys of finite values lie between LOWEST and
// HIGHEST.
template <typename Value>
struct Keys;

template <>
struct Keys<float> {
    using Bits = uint32_t;
    static constexpr Bits SIGN = Bits(1) << 31, INFINITE = 0x7f800000u;
    // 64 bits: they are moved faster than two fields
    struct Entry {
        uint64_t bits;
        Bits key() const { return Bits(bits >> 32); }
        uint32_t group() const { return uint32_t(bits); }
    };
    static Entry entry(Bits key, uint32_t group) { return {uint64_t(key) << 32 | group}; }
};

template <>
struct Keys<double> {
    using Bits = uint64_t;
    static constexpr Bits SIGN = Bits(1) << 63, INFINITE = 0x7ff0000000000000u;
    struct Entry {
        uint64_t value, of_group;
        Bits key() const { return value; }
        uint32_t group() const { return uint32_t(of_group); }
    };
    static Entry entry(Bits key, uint32_t group) { return {key, group}; }
};

template <typename Value>
typename Keys<Value>::Bits key_of(Value value) {
    using Bits = typename Keys<Value>::Bits;
    Bits bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits ^ (bits & Keys<Value>::SIGN ? ~Bits(0) : Keys<Value>::SIGN);
}

// The nonzero values of one gene, by group.
template <typename Value>
struct Column {
    std::vector<typename Keys<Value>::Entry> entries;
    int64_t n = 0;

    void reserve(int64_t more) {
        if (int64_t(entries.size()) < n + more) entries.resize(std::max(n + more, 2 * int64_t(entries.size())));
    }
};

// Cells by group: order (n,) are rows, the control first, and group g has those from starts[g] to starts[g + 1].
struct Groups {
    const int32_t* order;
    const int64_t* starts;
    int64_t n_groups;

    int64_t n() const { return starts[n_groups]; }
    int64_t size(int64_t g) const { return starts[g + 1] - starts[g]; }
};

constexpr int64_t BATCH_ROWS = 256;  // between checks of the space of a column
constexpr int64_t AHEAD = 12;        // rows that are fetched before they are read

// A block of columns, and how many entries each group has in them: counts (n_groups, width).
template <typename Value>
struct Block {
    std::vector<Column<Value>> columns;
    std::vector<int32_t> counts;

    explicit Block(int64_t width) : columns(width) {}

    int64_t width() const { return int64_t(columns.size()); }

    void clear(int64_t n_groups) {
        for (Column<Value>& column : columns) column.n = 0;
        counts.assign(n_groups * width(), 0);
    }

    // Collect rows in the order of their groups: visit(start, stop, g, ends) appends those of order[start] to
    // order[stop], at most BATCH_ROWS, of group g.
    template <typename Visit>
    void collect(const Groups& groups, Visit&& visit) {
        std::vector<typename Keys<Value>::Entry*> ends(width());
        for (int64_t g = 0; g < groups.n_groups; ++g) {
            for (int64_t start = groups.starts[g]; start < groups.starts[g + 1]; start += BATCH_ROWS) {
                const int64_t stop = std::min(start + BATCH_ROWS, groups.starts[g + 1]);
                for (int64_t c = 0; c < width(); ++c) {
                    columns[c].reserve(stop - start);
                    ends[c] = columns[c].entries.data() + columns[c].n;
                }
                visit(start, stop, uint32_t(g), ends.data());
                for (int64_t c = 0; c < width(); ++c) {
                    const int64_t n = ends[c] - columns[c].entries.data();
                    counts[g * width() + c] += int32_t(n - columns[c].n);
                    columns[c].n = n;
                }
            }
        }
    }
};

// Rows of a CSR matrix with sorted indices, read from left to right.
template <typename Value, typename Index>
class SparseRows {
  public:
    SparseRows(const Value* values, const Index* indices, const int64_t* indptr, const Groups& groups, int64_t first)
        : values_(values), indices_(indices), groups_(groups), at_(groups.n()), end_(groups.n()) {
        for (int64_t i = 0; i < groups.n(); ++i) {
            const int64_t row = groups.order[i];
            end_[i] = indptr[row + 1];
            at_[i] = first ? std::lower_bound(indices + indptr[row], indices + end_[i], Index(first)) - indices
                           : indptr[row];
        }
    }

    void read(int64_t start, int64_t stop, Block<Value>& block) {
        const int64_t last = groups_.n() - 1;
        block.collect(groups_, [&](int64_t first_row, int64_t end_row, uint32_t group, auto** ends) {
            for (int64_t i = first_row; i < end_row; ++i) {
                const int64_t soon = at_[std::min(i + AHEAD, last)];
                __builtin_prefetch(indices_ + soon);
                __builtin_prefetch(values_ + soon);
                int64_t at = at_[i];
                for (const int64_t end = end_[i]; at < end && int64_t(indices_[at]) < stop; ++at) {
                    const Value value = values_[at];
                    auto*& entry = ends[int64_t(indices_[at]) - start];
                    *entry = Keys<Value>::entry(key_of(value), group);
                    entry += value != 0;
                }
                at_[i] = at;
            }
        });
    }

  private:
    const Value* values_;
    const Index* indices_;
    const Groups& groups_;
    std::vector<int64_t> at_, end_;
};

// Columns of a CSC matrix; codes (n_rows,) have the group of each row, -1 for none.
template <typename Value, typename Index>
struct SparseColumns {
    const Value* values;
    const Index* indices;
    const int64_t* indptr;
    const int32_t* codes;
    int64_t n_groups;

    void read(int64_t start, int64_t stop, Block<Value>& block) {
        std::vector<int64_t> place(n_groups + 1);
        for (int64_t gene = start; gene < stop; ++gene) {
            const int64_t first = indptr[gene], last = indptr[gene + 1], c = gene - start;
            place.assign(n_groups + 1, 0);
            for (int64_t p = first; p < last; ++p) place[codes[indices[p]] + 1] += values[p] != 0;
            for (int64_t g = 0; g < n_groups; ++g) block.counts[g * block.width() + c] = int32_t(place[g + 1]);
            place[0] = 0;  // of rows without a group
            for (int64_t g = 1; g <= n_groups; ++g) place[g] += place[g - 1];
            Column<Value>& column = block.columns[c];
            column.reserve(place[n_groups]);
            column.n = place[n_groups];
            for (int64_t p = first; p < last; ++p) {
                const int32_t g = codes[indices[p]];
                if (g < 0 || values[p] == 0) continue;
                column.entries[place[g]++] = Keys<Value>::entry(key_of(values[p]), uint32_t(g));
            }
        }
    }
};

// An array whose rows and columns lie these numbers of values apart.
template <typename Value>
struct Dense {
    const Value* values;
    int64_t row_stride, column_stride;
    const Groups& groups;

    void read(int64_t start, int64_t stop, Block<Value>& block) {
        // a column at a time: the lines of memory of a batch of rows stay in the first-level cache
        block.collect(groups, [&](int64_t first_row, int64_t end_row, uint32_t group, auto** ends) {
            for (int64_t c = 0; c < stop - start; ++c) {
                const Value* const column = values + (start + c) * column_stride;
                auto* entry = ends[c];
                for (int64_t i = first_row; i < end_row; ++i) {
                    const Value value = column[groups.order[i] * row_stride];
                    *entry = Keys<Value>::entry(key_of(value), group);
                    entry += value != 0;
                }
                ends[c] = entry;
            }
        });
    }
};

constexpr int64_t MIN_RADIX = 48;  // shorter lists are sorted by insertion alone
constexpr int MAX_DIGIT_BITS = 11;

// Sort by insertion, with at most `max_moves` moves; return whether that was enough.
template <typename Entry>
bool sort_by_insertion(Entry* entries, int64_t n, int64_t max_moves) {
    for (int64_t i = 1; i < n; ++i) {
        const Entry entry = entries[i];
        int64_t j = i;
        for (; j > 0 && entries[j - 1].key() > entry.key(); --j) entries[j] = entries[j - 1];
        entries[j] = entry;
        max_moves -= i - j;
        if (max_moves < 0) return false;
    }
    return true;
}

// Sorts entries by key; equal keys keep their order.
template <typename Value>
class Sorter {
  public:
    using Entry = typename Keys<Value>::Entry;
    using Bits = typename Keys<Value>::Bits;

    // Return the sorted entries, here or in a buffer. low and high are the smallest and the largest key, `differing`
    // has the bits in which keys differ from each other. Two passes by the upper digits of the range leave few
    // neighbours in the wrong order, unless most values lie close together and some far away; whole numbers need one
    // pass.
    const Entry* sort(Entry* entries, int64_t n, Bits low, Bits high, Bits differing) {
        if (n < MIN_RADIX) {
            sort_by_insertion(entries, n, n * n);
            return entries;
        }
        const int unused = differing ? __builtin_ctzll(differing) : 0;  // lower bits, the same in all keys
        const int bits = bits_of(high - low) - unused;
        if (bits <= MAX_DIGIT_BITS) {
            once(entries, n, low, unused, std::max(bits, 1));
            return sorted_.data();
        }
        const int digit_bits = std::min(MAX_DIGIT_BITS, (bits_of(Bits(n)) + 1) / 2 + 2);
        twice(entries, n, low, unused + std::max(0, bits - 2 * digit_bits), digit_bits);
        if (bits <= 2 * digit_bits || sort_by_insertion(entries, n, 4 * n)) return entries;
        for (int shift = 0; shift < bits + unused; shift += 2 * MAX_DIGIT_BITS)
            twice(entries, n, low, shift, MAX_DIGIT_BITS);
        return entries;
    }

  private:
    static int bits_of(Bits x) { return x ? 64 - __builtin_clzll(x) : 0; }

    // Replace counts of digits by the place of the first entry of each.
    static void to_places(int64_t* counts, int64_t n_digits) {
        int64_t sum = 0;
        for (int64_t digit = 0; digit < n_digits; ++digit) sum += std::exchange(counts[digit], sum);
    }

    // Sort by one digit of key - low into sorted_.
    void once(const Entry* entries, int64_t n, Bits low, int shift, int digit_bits) {
        const Bits mask = (Bits(1) << digit_bits) - 1;
        sorted_.resize(n);
        std::fill_n(first_, mask + 1, 0);
        for (int64_t i = 0; i < n; ++i) ++first_[(entries[i].key() - low) >> shift & mask];
        to_places(first_, mask + 1);
        for (int64_t i = 0; i < n; ++i) sorted_[first_[(entries[i].key() - low) >> shift & mask]++] = entries[i];
    }

    // Sort by two digits of key - low, the lower of which begins at bit `shift`.
    void twice(Entry* entries, int64_t n, Bits low, int shift, int digit_bits) {
        constexpr int MAX_SHIFT = 8 * sizeof(Bits) - 1;
        const int second = std::min(shift + digit_bits, MAX_SHIFT);
        const Bits mask = (Bits(1) << digit_bits) - 1;
        sorted_.resize(n);
        std::fill_n(first_, mask + 1, 0);
        std::fill_n(second_, mask + 1, 0);
        for (int64_t i = 0; i < n; ++i) {
            const Bits key = entries[i].key() - low;
            ++first_[key >> shift & mask];
            ++second_[key >> second & mask];
        }
        to_places(first_, mask + 1);
        to_places(second_, mask + 1);
        Entry* const other = sorted_.data();
        for (int64_t i = 0; i < n; ++i) other[first_[(entries[i].key() - low) >> shift & mask]++] = entries[i];
        for (int64_t i = 0; i < n; ++i) entries[second_[(other[i].key() - low) >> second & mask]++] = other[i];
    }

    std::vector<Entry> sorted_;
    int64_t first_[1 << MAX_DIGIT_BITS], second_[1 << MAX_DIGIT_BITS];
};

int64_t cubes(int64_t t) { return t * (t - 1) * (t + 1); }

// Sums of all groups in one gene, in several tables: additions to the same sum would wait for each other.
class Sweep {
  public:
    static constexpr int TABLES = 4;
    struct Sums {
        int64_t twice_u, ties;  // ties is a third of the sum of t^3 - t
    };

    explicit Sweep(int64_t n_groups) : sums_(TABLES * n_groups), n_groups_(n_groups) {}

    void clear() {
        std::fill(sums_.begin(), sums_.end(), Sums{0, 0});
        below_ = 0;
    }

    // Add entries in ascending order, by group in each run of equal values. Those of the control count only their ties.
    template <typename Entry>
    void add(const Entry* entries, int64_t n) {
        if (!n) return;
        int64_t below = below_, controls = 0, own = 0;
        auto key = ~entries[0].key();
        uint32_t group = 0;
        const auto step = [&](int64_t i, Sums* table) {
            const auto next_key = entries[i].key();
            const uint32_t next_group = entries[i].group();
            const bool same = next_key == key;
            const int64_t is_control = next_group == 0;
            controls = (same ? controls : 0) + is_control;
            below += is_control;
            own = (same & (next_group == group) ? own : 0) + 1;
            const int64_t t = controls + (is_control ? 0 : own);
            key = next_key;
            group = next_group;
            table[next_group].twice_u += 2 * below - controls;
            table[next_group].ties += t * (t - 1);
        };
        Sums* const tables = sums_.data();
        int64_t i = 0;
        for (; i + TABLES <= n; i += TABLES)
            for (int k = 0; k < TABLES; ++k) step(i + k, tables + k * n_groups_);
        for (; i < n; ++i) step(i, tables);
        below_ = below;
    }

    void add_control_zeros(int64_t n) { below_ += n; }

    int64_t below() const { return below_; }

    Sums sums(int64_t group) const {
        Sums all{0, 0};
        for (int k = 0; k < TABLES; ++k) {
            all.twice_u += sums_[k * n_groups_ + group].twice_u;
            all.ties += sums_[k * n_groups_ + group].ties;
        }
        return all;
    }

  private:
    std::vector<Sums> sums_;
    int64_t n_groups_;
    int64_t below_ = 0;  // control cells in the entries so far
};

// Where the sums of group g in a gene are written: u[rows[g] * n_genes + gene], and ties likewise.
struct Output {
    const int64_t* rows;
    int64_t n_genes;
    double* u;
    int64_t* ties;
};

// Write U and ties of all groups in one gene. counts: nonzero values of each group, `stride` apart. Return whether all
// values are finite.
template <typename Value>
bool count_gene(Column<Value>& column, const int32_t* counts, int64_t stride, const Groups& groups,
                Sorter<Value>& sorter, Sweep& sweep, int64_t gene, const Output& output) {
    using Bits = typename Keys<Value>::Bits;
    constexpr Bits ZERO = Keys<Value>::SIGN;
    typename Keys<Value>::Entry* const unsorted = column.entries.data();
    Bits low = ~Bits(0), high = 0, differing = 0;
    for (int64_t i = 0; i < column.n; ++i) {
        const Bits key = unsorted[i].key();
        low = std::min(low, key);
        high = std::max(high, key);
        differing |= key ^ unsorted[0].key();
    }
    if (column.n && (high >= ZERO + Keys<Value>::INFINITE || low <= ZERO - 1 - Keys<Value>::INFINITE)) return false;
    const auto* const entries = sorter.sort(unsorted, column.n, low, high, differing);
    int64_t negative = 0;
    if (low < ZERO)
        negative = std::partition_point(entries, entries + column.n, [](auto e) { return e.key() < ZERO; }) - entries;
    const int64_t control_zeros = groups.size(0) - counts[0];
    sweep.clear();
    sweep.add(entries, negative);
    const int64_t twice_below_zero = 2 * sweep.below() + control_zeros;
    sweep.add_control_zeros(control_zeros);
    sweep.add(entries + negative, column.n - negative);
    const int64_t control_ties = 3 * sweep.sums(0).ties + cubes(control_zeros);
    for (int64_t g = 0; g < groups.n_groups; ++g) {
        const int64_t zeros = groups.size(g) - counts[g * stride];
        const Sweep::Sums sums = sweep.sums(g);
        const int64_t twice_u = sums.twice_u + zeros * twice_below_zero;
        const int64_t ties = 3 * sums.ties + cubes(zeros + control_zeros) - cubes(control_zeros);
        const int64_t place = output.rows[g] * output.n_genes + gene;
        output.u[place] = 0.5 * double(g ? twice_u : groups.size(0) * groups.size(0));
        output.ties[place] = control_ties + (g ? ties : 0);
    }
    return true;
}

// Count the genes [start, stop), in blocks of `width`; return whether all values are finite, else the rest is left out.
template <typename Value, typename Source>
bool count_genes(Source&& source, int64_t start, int64_t stop, int64_t width, const Groups& groups,
                 const Output& output) {
    Block<Value> block(std::min(width, stop - start));
    Sweep sweep(groups.n_groups);
    Sorter<Value> sorter;
    for (int64_t first = start; first < stop; first += block.width()) {
        const int64_t last = std::min(first + block.width(), stop);
        block.clear(groups.n_groups);
        source.read(first, last, block);
        for (int64_t gene = first; gene < last; ++gene) {
            const int64_t c = gene - first;
            if (!count_gene(block.columns[c], &block.counts[c], block.width(), groups, sorter, sweep, gene, output))
                return false;
        }
    }
    return true;
}

}  // namespace

// Write U and ties of the genes [start, stop) into u and ties (n_groups, n_genes); return 0 if a value is not finite.
//
// order, starts: see Groups; rows (n_groups,) the row of each group in u and ties; width: genes of a block. Sparse
// matrices have sorted indices that do not repeat: values and indices of each row (rank_rows_*) or column
// (rank_columns_*, codes (n_cells,) the groups of the rows) lie from one of indptr to the next. Values of rank_dense_*
// lie row_stride and column_stride apart.
#define RANK_DENSE(NAME, VALUE)                                                                                        \
    EXPORT int32_t rank_dense_##NAME(const VALUE* values, int64_t row_stride, int64_t column_stride, int64_t start,    \
                                     int64_t stop, int64_t width, const int32_t* order, const int64_t* starts,         \
                                     const int64_t* rows, int64_t n_groups, int64_t n_genes, double* u,                \
                                     int64_t* ties) {                                                                  \
        const Groups groups{order, starts, n_groups};                                                                  \
        return count_genes<VALUE>(Dense<VALUE>{values, row_stride, column_stride, groups}, start, stop, width, groups, \
                                  Output{rows, n_genes, u, ties});                                                     \
    }
#define RANK_SPARSE(NAME, VALUE, INDEX)                                                                               \
    EXPORT int32_t rank_rows_##NAME(const VALUE* values, const INDEX* indices, const int64_t* indptr, int64_t start,  \
                                    int64_t stop, int64_t width, const int32_t* order, const int64_t* starts,         \
                                    const int64_t* rows, int64_t n_groups, int64_t n_genes, double* u,                \
                                    int64_t* ties) {                                                                  \
        const Groups groups{order, starts, n_groups};                                                                 \
        return count_genes<VALUE>(SparseRows<VALUE, INDEX>(values, indices, indptr, groups, start), start, stop,      \
                                  width, groups, Output{rows, n_genes, u, ties});                                     \
    }                                                                                                                 \
    EXPORT int32_t rank_columns_##NAME(const VALUE* values, const INDEX* indices, const int64_t* indptr,              \
                                       const int32_t* codes, int64_t start, int64_t stop, int64_t width,              \
                                       const int32_t* order, const int64_t* starts, const int64_t* rows,              \
                                       int64_t n_groups, int64_t n_genes, double* u, int64_t* ties) {                 \
        const Groups groups{order, starts, n_groups};                                                                 \
        return count_genes<VALUE>(SparseColumns<VALUE, INDEX>{values, indices, indptr, codes, n_groups}, start, stop, \
                                  width, groups, Output{rows, n_genes, u, ties});                                     \
    }
RANK_DENSE(f32, float)
RANK_DENSE(f64, double)
RANK_SPARSE(f32_i32, float, int32_t)
RANK_SPARSE(f32_i64, float, int64_t)
RANK_SPARSE(f64_i32, double, int32_t)
RANK_SPARSE(f64_i64, double, int64_t)

// sum_rows_*: add the n rows of a CSR matrix to sums (n_genes,). sum_columns_*: add the rows of a CSC matrix to the
// sums (n_groups, n_genes) of their groups, in the genes [start, stop); codes (n_cells,) are -1 for rows of no group.
#define SUM_SPARSE(NAME, VALUE, INDEX)                                                                                 \
    EXPORT void sum_rows_##NAME(const VALUE* values, const INDEX* indices, const int64_t* indptr, const int32_t* rows, \
                                int64_t n, double* sums) {                                                             \
        for (int64_t i = 0; i < n; ++i)                                                                                \
            for (int64_t p = indptr[rows[i]]; p < indptr[rows[i] + 1]; ++p) sums[indices[p]] += double(values[p]);     \
    }                                                                                                                  \
    EXPORT void sum_columns_##NAME(const VALUE* values, const INDEX* indices, const int64_t* indptr,                   \
                                   const int32_t* codes, int64_t n_genes, int64_t start, int64_t stop, double* sums) { \
        for (int64_t gene = start; gene < stop; ++gene)                                                                \
            for (int64_t p = indptr[gene]; p < indptr[gene + 1]; ++p) {                                                \
                const int32_t g = codes[indices[p]];                                                                   \
                if (g >= 0) sums[g * n_genes + gene] += double(values[p]);                                             \
            }                                                                                                          \
    }
SUM_SPARSE(f32_i32, float, int32_t)
SUM_SPARSE(f32_i64, float, int64_t)
SUM_SPARSE(f64_i32, double, int32_t)
SUM_SPARSE(f64_i64, double, int64_t)
