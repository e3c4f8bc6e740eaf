// Random forests on features in at most 256 bins, grown to purity by gini; called by forest.py.
//
// The rows of a node stay sorted by class, so that counts of a class are counts of a run. Random numbers of a node
// follow from its place in the tree: neither threads nor the order of work change a tree.

#include "splits.hpp"

namespace {

constexpr int SORT_BITS = 11;
constexpr int SORTED_FEATURES = 16;             // values of a cache line
constexpr int64_t MIN_DISTANT_BYTES = 1 << 20;  // of the bins of all cells, if they do not fit a core's cache;
constexpr int64_t MAX_LOCAL_BYTES = 1 << 17;    // the bins of the cells of smaller nodes are then copied
constexpr int64_t PREDICTED_ROWS = 256;
constexpr int64_t ROWS_TOGETHER = 16;

uint64_t mixed(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

// SplitMix64.
struct Random {
    uint64_t state;

    uint64_t next() { return mixed(state += 0x9E3779B97F4A7C15u); }
    uint32_t below(uint32_t n) { return uint32_t((next() >> 32) * n >> 32); }
};

// A leaf has feature -1. child: of an inner node the left one, after which the right one follows; of a leaf of one
// class the class; of another leaf -1 - its place among the shares.
struct TreeNode {
    int32_t feature;
    float threshold;
    int32_t child;
};

struct Columns {
    const uint8_t* bins;
    int64_t stride;

    const uint8_t* operator[](int64_t feature) const { return bins + feature * stride; }
};

// A node that is to be split: its entries and the key of its random numbers.
struct Open {
    int32_t start, stop, node;
    uint64_t key;
};

// Order-preserving bits of a float; -0 equals 0.
uint32_t sortable(float value) {
    value += 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

float unsortable(uint32_t bits) {
    bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Sort pairs of a key, in the high half, and a row; the pairs end in `pairs`.
void sort_pairs(std::vector<uint64_t>& pairs, std::vector<uint64_t>& other) {
    other.resize(pairs.size());
    for (int shift = 32; shift < 64; shift += SORT_BITS) {
        size_t ends[1 << SORT_BITS] = {};
        const auto digit = [&](uint64_t pair) { return pair >> shift & ((1 << SORT_BITS) - 1); };
        for (const uint64_t pair : pairs) ++ends[digit(pair)];
        size_t sum = 0;
        for (size_t& end : ends) std::swap(end, sum), sum += end;
        for (const uint64_t pair : pairs) other[ends[digit(pair)]++] = pair;
        pairs.swap(other);
    }
}

// Return the share of the bins for the i lowest of n values: more than their number in proportion at both ends, where
// few cells of a rare class may be.
double share_of_bins(int64_t i, int64_t n) {
    const double share = double(i) / double(n);
    return share / 2 + (std::sqrt(share) + 1 - std::sqrt(1 - share)) / 4;
}

// Put sorted values into bins; equal values share a bin, and up to 256 different ones have one each.
int assign_bins(const std::vector<uint64_t>& pairs, uint8_t* column, float* lows, float* highs) {
    const int64_t n = int64_t(pairs.size());
    const auto value = [&](int64_t i) { return uint32_t(pairs[i] >> 32); };
    int64_t n_values = 1;
    for (int64_t i = 1; i < n; ++i) n_values += value(i) != value(i - 1);
    int bin = -1;
    double first = 0, before = 0, wanted = 0;  // shares up to the bin and up to the value; share of the bin
    for (int64_t start = 0, stop; start < n; start = stop) {
        for (stop = start + 1; stop < n && value(stop) == value(start);) ++stop;
        const double after = share_of_bins(stop, n);
        const bool is_full = n_values <= BINS || (before + after) / 2 - first > wanted;
        if (bin < 0 || (is_full && bin < BINS - 1)) {
            ++bin;
            first = before;
            wanted = (1 - before) / (BINS - bin);
            lows[bin] = unsortable(value(start));
        }
        highs[bin] = unsortable(value(start));
        for (int64_t i = start; i < stop; ++i) column[uint32_t(pairs[i])] = uint8_t(bin);
        before = after;
    }
    return bin + 1;
}

class Tree {
  public:
    Tree(Columns columns, const uint8_t* rows, int64_t d, const float* lows, const float* highs, const int32_t* n_bins,
         int32_t max_features, TreeNode* nodes, int32_t* shares)
        : columns_(columns),
          rows_(rows),
          d_(d),
          lows_(lows),
          highs_(highs),
          n_bins_(n_bins),
          max_features_(max_features),
          nodes_(nodes),
          shares_(shares),
          order_(d) {
        for (int64_t f = 0; f < d; ++f) order_[f] = uint32_t(f);
    }

    int64_t n_nodes = 1, n_shares = 0;

    void grow(std::vector<Entry>& entries, uint64_t key) {
        entries_ = entries.data();
        right_.resize(entries.size());
        const bool is_distant = columns_.stride * d_ > MIN_DISTANT_BYTES;
        std::vector<Open> open = {{0, int32_t(entries.size()), 0, key}};
        while (!open.empty()) {
            const Open next = open.back();
            open.pop_back();
            if (is_distant && (next.stop - next.start) * d_ <= MAX_LOCAL_BYTES)
                grow_locally(next);
            else
                split(next, columns_, open);
        }
    }

  private:
    Columns columns_;
    const uint8_t* rows_;
    int64_t d_;
    const float *lows_, *highs_;
    const int32_t* n_bins_;
    int32_t max_features_;
    TreeNode* nodes_;
    int32_t* shares_;
    std::vector<uint32_t> order_, drawn_;
    std::vector<Entry> right_;
    std::vector<uint8_t> local_;
    std::vector<Open> local_open_;
    Entry* entries_ = nullptr;
    Node node_;

    void grow_locally(const Open& root) {
        const int64_t m = root.stop - root.start;
        local_.resize(m * d_);
        for (int64_t i = 0; i < m; ++i) {
            Entry& entry = entries_[root.start + i];
            const uint8_t* row = rows_ + entry.row * d_;
            for (int64_t f = 0; f < d_; ++f) local_[f * m + i] = row[f];
            entry.row = uint32_t(i);
        }
        local_open_.assign(1, root);
        while (!local_open_.empty()) {
            const Open next = local_open_.back();
            local_open_.pop_back();
            split(next, {local_.data(), m}, local_open_);
        }
    }

    // Make a leaf, or an inner node whose children are added to the open ones.
    void split(const Open& at, Columns columns, std::vector<Open>& open) {
        node_.set(entries_ + at.start, at.stop - at.start);
        if (node_.runs.size() == 1) {
            nodes_[at.node] = {-1, 0.0f, int32_t(node_.runs[0].label)};
            return;
        }
        const Split best = best_split(columns, at.key);
        if (best.feature < 0) {
            nodes_[at.node] = {-1, 0.0f, int32_t(-1 - add_shares())};
            return;
        }
        int next_bin;
        const int32_t middle = partition(at, columns[best.feature], best.bin, next_bin);
        const int32_t left = int32_t(n_nodes);
        n_nodes += 2;
        const float* low = lows_ + int64_t(best.feature) * BINS;
        const float* high = highs_ + int64_t(best.feature) * BINS;
        float threshold = float((double(high[best.bin]) + double(low[next_bin])) / 2);
        if (threshold >= low[next_bin]) threshold = high[best.bin];
        nodes_[at.node] = {best.feature, threshold, left};
        open.push_back({middle, at.stop, left + 1, mixed(at.key + 2)});
        open.push_back({at.start, middle, left, mixed(at.key + 1)});
    }

    // Search among features drawn without replacement: `max_features_`, and more while they are constant.
    Split best_split(Columns columns, uint64_t key) {
        Split best;
        Random random{key};
        drawn_.clear();
        for (int64_t i = 0; i < d_ && (i < max_features_ || best.feature < 0); ++i) {
            const uint32_t j = uint32_t(i) + random.below(uint32_t(d_ - i));
            std::swap(order_[i], order_[j]);
            drawn_.push_back(j);
            const uint32_t feature = order_[i];
            node_.search(columns[feature], n_bins_[feature], int32_t(feature), best);
            if (best.score == float(node_.weight)) break;  // both sides are pure
        }
        for (int64_t i = int64_t(drawn_.size()) - 1; i >= 0; --i) std::swap(order_[i], order_[drawn_[i]]);
        return best;
    }

    int64_t add_shares() {
        const int64_t place = n_shares;
        shares_[n_shares++] = int32_t(node_.runs.size());
        shares_[n_shares++] = node_.weight;
        for (const Run& run : node_.runs) {
            shares_[n_shares++] = int32_t(run.label);
            shares_[n_shares++] = run.weight;
        }
        return place;
    }

    // Move entries of bins up to `bin` to the front, in order; next_bin: the lowest bin of the others.
    int32_t partition(const Open& at, const uint8_t* column, int bin, int& next_bin) {
        int32_t left = at.start, right = 0;
        int next = BINS - 1;
        Entry *entries = entries_, *to_right = right_.data();
        for (int32_t i = at.start, stop = at.stop; i < stop; ++i) {
            const Entry entry = entries[i];
            const int of_entry = column[entry.row];
            const bool goes_left = of_entry <= bin;
            entries[left] = entry;
            to_right[right] = entry;
            left += goes_left;
            right += !goes_left;
            next = std::min(next, goes_left ? BINS - 1 : of_entry);
        }
        next_bin = next;
        std::copy(right_.begin(), right_.begin() + right, entries_ + left);
        return left;
    }
};

// Find the leaves of a few rows of x, whose paths are followed together to hide the latency of memory.
void descend(const TreeNode* nodes, const float* x, int64_t n_rows, int64_t d, int32_t* leaves) {
    int32_t at[ROWS_TOGETHER] = {};
    for (bool is_inner = true; is_inner;) {
        is_inner = false;
        for (int64_t i = 0; i < n_rows; ++i) {
            const TreeNode node = nodes[at[i]];
            const float value = x[i * d + std::max(node.feature, 0)];
            const int32_t next = node.child + !(value <= node.threshold);
            at[i] = node.feature < 0 ? at[i] : next;
            is_inner |= node.feature >= 0;
        }
    }
    for (int64_t i = 0; i < n_rows; ++i) leaves[i] = nodes[at[i]].child;
}

void add_leaf(int32_t child, const int32_t* shares, double* proba) {
    if (child >= 0) {
        proba[child] += 1.0;
        return;
    }
    shares += -1 - child;
    for (int32_t i = 0; i < shares[0]; ++i) proba[shares[2 + 2 * i]] += double(shares[3 + 2 * i]) / shares[1];
}

}  // namespace

// Put the values of the features [first, last) of x (n, d) into bins.
//
// columns (d, n): the bin of each value; lows, highs (d, 256): the least and the greatest value of each bin; n_bins
// (d,)
EXPORT void forest_bins(const float* x, int64_t n, int64_t d, int64_t first, int64_t last, uint8_t* columns,
                        float* lows, float* highs, int32_t* n_bins) {
    std::vector<uint64_t> pairs[SORTED_FEATURES], other;
    for (; first < last; first += SORTED_FEATURES) {
        const int64_t width = std::min<int64_t>(SORTED_FEATURES, last - first);
        for (int64_t f = 0; f < width; ++f) pairs[f].resize(n);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t f = 0; f < width; ++f)
                pairs[f][i] = uint64_t(sortable(x[i * d + first + f])) << 32 | uint64_t(i);
        for (int64_t f = first; f < first + width; ++f) {
            sort_pairs(pairs[f - first], other);
            n_bins[f] = assign_bins(pairs[f - first], columns + f * n, lows + f * BINS, highs + f * BINS);
        }
    }
}

// Write the rows [start, stop) of columns (d, n) to rows (n, d).
EXPORT void forest_rows(const uint8_t* columns, int64_t n, int64_t d, int64_t start, int64_t stop, uint8_t* rows) {
    constexpr int64_t BLOCK = 64;
    for (; start < stop; start += BLOCK)
        for (int64_t f = 0; f < d; ++f)
            for (int64_t i = start; i < std::min(start + BLOCK, stop); ++i) rows[i * d + f] = columns[f * n + i];
}

// Grow a tree on a bootstrap sample of the cells.
//
// columns (d, n) and rows (n, d): bins; order (n,): the cells sorted by class; codes (n,): their classes. nodes has
// space for 2 n nodes, shares for 4 n numbers: of each leaf of several classes their number, the weight of the leaf,
// and pairs of a class and its weight. sizes (2,): how many nodes and numbers were written.
EXPORT void forest_tree(const uint8_t* columns, const uint8_t* rows, int64_t n, int64_t d, const float* lows,
                        const float* highs, const int32_t* n_bins, const int32_t* order, const int32_t* codes,
                        int32_t max_features, uint64_t seed, int64_t number, TreeNode* nodes, int32_t* shares,
                        int64_t* sizes) {
    Random random{mixed(mixed(seed) + uint64_t(number))};
    std::vector<uint8_t> weights(n);
    for (int64_t i = 0; i < n; ++i) ++weights[random.below(uint32_t(n))];
    std::vector<Entry> entries;
    entries.reserve(n);
    for (int64_t i = 0; i < n; ++i)
        if (const int32_t row = order[i]; weights[row])
            entries.push_back({uint32_t(row), uint32_t(codes[row]) << 8 | weights[row]});
    Tree tree({columns, n}, rows, d, lows, highs, n_bins, max_features, nodes, shares);
    tree.grow(entries, random.next());
    sizes[0] = tree.n_nodes;
    sizes[1] = tree.n_shares;
}

// Add the shares of the classes in the leaves of trees to proba (n, n_classes) for the rows [start, stop) of x (n, d).
//
// nodes and shares are those of all trees; node_starts and share_starts (n_trees,): where those of each tree begin
EXPORT void forest_predict(const float* x, int64_t start, int64_t stop, int64_t d, const TreeNode* nodes,
                           const int64_t* node_starts, const int32_t* shares, const int64_t* share_starts,
                           int64_t n_trees, int64_t n_classes, double* proba) {
    for (; start < stop; start += PREDICTED_ROWS) {
        const int64_t n_rows = std::min(PREDICTED_ROWS, stop - start);
        for (int64_t tree = 0; tree < n_trees; ++tree) {
            int32_t leaves[PREDICTED_ROWS] = {};
            for (int64_t i = 0; i < n_rows; i += ROWS_TOGETHER)
                descend(nodes + node_starts[tree], x + (start + i) * d, std::min(ROWS_TOGETHER, n_rows - i), d,
                        leaves + i);
            for (int64_t i = 0; i < n_rows; ++i)
                add_leaf(leaves[i], shares + share_starts[tree], proba + (start + i) * n_classes);
        }
    }
}
