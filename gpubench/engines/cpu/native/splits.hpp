// Search for the best split of a node of a tree, on features in at most 256 bins; see forest.cpp.
//
// A split at bin b sends the rows of bins up to b to the left. Its score is the sum over both sides of (sum over
// classes of the squared weight) / weight: the larger, the smaller the gini impurity. Of equal scores the feature that
// is searched first counts, and of its bins the lowest. All sums are integers, so each way to compute them gives the
// same scores; which one is taken depends on what is fastest for the size of the node.

#pragma once

#include <type_traits>

#include "product.hpp"

namespace {

constexpr int BINS = 256;
constexpr int FEW_BINS = 32;         // features with so few bins have smaller tables
constexpr int MAX_SMALL = 255;       // weight of a node whose sums of squares fit 16 bits
constexpr int MAX_MEDIUM = 32767;    // weight of a node whose sums of squares fit 32 bits
constexpr int SHORT_RUN = 16;        // rows of a class that may be compared with one another instead of counted,
constexpr int MIN_SHORT_RUNS = 8;    // which pays from so many classes on
constexpr int CLASSES_TOGETHER = 4;  // classes whose counts are squared together
constexpr int BINS_OF_COLUMN = 8;    // see `place_of`
constexpr bool IS_LITTLE_ENDIAN = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

#if defined(__AVX512BW__)
constexpr int MAX_BYTES = 64;
#elif defined(__AVX2__)
constexpr int MAX_BYTES = 32;
#else
constexpr int MAX_BYTES = 16;
#endif

template <typename T, int N>
struct VectorOf {
    typedef T type __attribute__((vector_size(N * sizeof(T))));
};

// A row of the training cells in a node, its class, and how often it was drawn.
struct Entry {
    uint32_t row, class_and_weight;

    uint32_t label() const { return class_and_weight >> 8; }
    uint32_t weight() const { return class_and_weight & 255; }
};

// The entries [start, stop) of a node, which are of one class.
struct Run {
    uint32_t label;
    int32_t start, stop, weight;

    bool is_short() const { return stop - start <= SHORT_RUN; }
};

struct Split {
    float score = 0;
    int32_t feature = -1;
    int bin = 0;
};

// Return the bits of a score; scores are not negative, so their bits compare as they do.
inline int32_t bits_of(float score) {
    int32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    return bits;
}

// The bins in ascending order, then thresholds that no row is above.
struct AllBins {
    uint8_t values[BINS + MAX_BYTES];

    AllBins() {
        for (int i = 0; i < BINS + MAX_BYTES; ++i) values[i] = uint8_t(std::min(i, BINS - 1));
    }
};

const AllBins ALL_BINS;

// Return the place of a bin in a table of N bins, whose columns hold 8 successive ones: running sums then add whole
// rows.
template <int N>
uint8_t place_of(uint8_t bin) {
    if (N == BINS) return uint8_t(bin << 5 | bin >> 3);  // a rotation
    return uint8_t(bin % BINS_OF_COLUMN * (N / BINS_OF_COLUMN) + bin / BINS_OF_COLUMN);
}

template <int N, typename T>
void add_rows_downwards(T* table) {
    constexpr int WIDTH = N / BINS_OF_COLUMN;
    for (int row = WIDTH; row < N; row += WIDTH)
        for (int lane = 0; lane < WIDTH; ++lane) table[row + lane] += table[row - WIDTH + lane];
}

// Sum each column of a table downwards; before: the sum of all columns before each. Both together are running sums.
template <int N, typename T>
void sum_columns(T* table, T* before) {
    constexpr int WIDTH = N / BINS_OF_COLUMN;
    add_rows_downwards<N>(table);
    const T* totals = table + N - WIDTH;
    if constexpr (sizeof(T) == 2 && IS_LITTLE_ENDIAN) {  // four sums by one multiplication
        constexpr uint64_t EACH = 0x0001000100010001u;
        uint64_t sum = 0;
        for (int lane = 0; lane < WIDTH; lane += 4) {
            uint64_t four;
            std::memcpy(&four, totals + lane, sizeof four);
            const uint64_t sums = four * EACH, result = sum * EACH + (sums << 16);
            std::memcpy(before + lane, &result, sizeof result);
            sum += sums >> 48;
        }
    } else {
        T sum = 0;
        for (int lane = 0; lane < WIDTH; ++lane) {
            before[lane] = sum;
            sum = T(sum + totals[lane]);
        }
    }
}

// 16-bit counts are widened by instructions that interleave them, so the lanes of wide tables have an order of their
// own; see `WideOrder`.
#if defined(__AVX512BW__)
#define HAS_PAIR_PRODUCTS 1
typedef __m512i Words;
inline Words load_words(const void* from) { return _mm512_load_si512(from); }
inline void store_words(void* to, Words words) { _mm512_store_si512(to, words); }
inline Words interleave_low(Words a, Words b) { return _mm512_unpacklo_epi16(a, b); }
inline Words interleave_high(Words a, Words b) { return _mm512_unpackhi_epi16(a, b); }
inline Words pair_products(Words a, Words b) { return _mm512_madd_epi16(a, b); }
inline Words sum16(Words a, Words b) { return _mm512_add_epi16(a, b); }
inline Words sum32(Words a, Words b) { return _mm512_add_epi32(a, b); }
inline Words everywhere16(uint16_t value) { return _mm512_set1_epi16(int16_t(value)); }
#elif defined(__AVX2__)
#define HAS_PAIR_PRODUCTS 1
typedef __m256i Words;
inline Words load_words(const void* from) { return _mm256_load_si256((const __m256i*)from); }
inline void store_words(void* to, Words words) { _mm256_store_si256((__m256i*)to, words); }
inline Words interleave_low(Words a, Words b) { return _mm256_unpacklo_epi16(a, b); }
inline Words interleave_high(Words a, Words b) { return _mm256_unpackhi_epi16(a, b); }
inline Words pair_products(Words a, Words b) { return _mm256_madd_epi16(a, b); }
inline Words sum16(Words a, Words b) { return _mm256_add_epi16(a, b); }
inline Words sum32(Words a, Words b) { return _mm256_add_epi32(a, b); }
inline Words everywhere16(uint16_t value) { return _mm256_set1_epi16(int16_t(value)); }
#elif defined(__aarch64__)
#define HAS_PAIR_PRODUCTS 1
typedef int16x8_t Words;
inline Words load_words(const void* from) { return vld1q_s16((const int16_t*)from); }
inline void store_words(void* to, Words words) { vst1q_s16((int16_t*)to, words); }
inline Words interleave_low(Words a, Words b) { return vzip1q_s16(a, b); }
inline Words interleave_high(Words a, Words b) { return vzip2q_s16(a, b); }
inline Words pair_products(Words a, Words b) {
    return (Words)vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}
inline Words sum16(Words a, Words b) { return vaddq_s16(a, b); }
inline Words sum32(Words a, Words b) { return (Words)vaddq_s32((int32x4_t)a, (int32x4_t)b); }
inline Words everywhere16(uint16_t value) { return vdupq_n_s16(int16_t(value)); }
#else
#define HAS_PAIR_PRODUCTS 0
#endif

template <int N, typename Count>
constexpr bool is_interleaved() {
#if HAS_PAIR_PRODUCTS
    return sizeof(Count) == 2 && N / BINS_OF_COLUMN * sizeof(Count) % sizeof(Words) == 0;
#else
    return false;
#endif
}

template <int N, typename Count>
void widen(const Count* narrow, int32_t* wide) {
#if HAS_PAIR_PRODUCTS
    constexpr int LANES_OF_WORDS = sizeof(Words) / 2;
    if constexpr (is_interleaved<N, Count>()) {
        for (int b = 0; b < N; b += LANES_OF_WORDS) {
            const Words words = load_words(narrow + b);
            store_words(wide + b, interleave_low(words, Words{}));
            store_words(wide + b + LANES_OF_WORDS / 2, interleave_high(words, Words{}));
        }
        return;
    }
#endif
    for (int b = 0; b < N; ++b) wide[b] = int32_t(narrow[b]);
}

// The bin of each lane of a wide table, and the lane of each bin.
template <int N, typename Count>
struct WideOrder {
    alignas(64) int32_t bins[N];
    uint8_t lanes[N];

    WideOrder() {
        alignas(64) Count narrow[N];
        for (int bin = 0; bin < N; ++bin) narrow[place_of<N>(uint8_t(bin))] = Count(bin);
        widen<N>(narrow, bins);
        for (int lane = 0; lane < N; ++lane) lanes[bins[lane]] = uint8_t(lane);
    }
};

template <int N, typename Count>
const WideOrder<N, Count> WIDE_ORDER;

// Add the running sums of what changes at each bin to the sums up to it; both are wide tables.
template <int N, typename Sum>
void add_running_sums(Sum* steps, const uint8_t* lanes, Sum* sums) {
    constexpr int WIDTH = N / BINS_OF_COLUMN;
    add_rows_downwards<N>(steps);
    Sum before[WIDTH], sum = 0;
    for (int bin = 0; bin < N; bin += BINS_OF_COLUMN) {
        before[lanes[bin]] = sum;
        sum += steps[N - WIDTH + lanes[bin]];
    }
    for (int row = 0; row < N; row += WIDTH)
        for (int lane = 0; lane < WIDTH; ++lane) sums[row + lane] += steps[row + lane] + before[lane];
}

// Counts of some classes by bin, which become running sums, and the sums of all classes that are made from them.
template <int N, typename Count, typename Sum>
struct Tables {
    static constexpr int WIDTH = N / BINS_OF_COLUMN;
    alignas(64) Count counts[CLASSES_TOGETHER][N] = {};
    alignas(64) Count before[CLASSES_TOGETHER][WIDTH];
    alignas(64) Count left[N] = {};  // weight
    alignas(64) Sum same[N] = {};    // sum over classes of its square
    alignas(64) Sum all[N] = {};     // sum over classes of its product with the weight of the class in the node
    Count class_weights[CLASSES_TOGETHER] = {};
    int n_classes = 0;

    // Add the counted classes to the sums, and clear the counts.
    void flush() {
        for (int k = 0; k < CLASSES_TOGETHER; ++k) {
            if (k >= n_classes) {
                std::fill(before[k], before[k] + WIDTH, Count(0));
                continue;
            }
            for (int b = 0; b < N; ++b) left[b] = Count(left[b] + counts[k][b]);
            sum_columns<N>(counts[k], before[k]);
        }
        n_classes = 0;
#if HAS_PAIR_PRODUCTS
        if constexpr (is_interleaved<N, Count>()) {
            add_pair_products();
            return;
        }
#endif
        for (int k = 0; k < CLASSES_TOGETHER; ++k)
            for (int row = 0; row < N; row += WIDTH)
                for (int lane = 0; lane < WIDTH; ++lane) {
                    const Sum count = Count(counts[k][row + lane] + before[k][lane]);
                    same[row + lane] += count * count;
                    all[row + lane] += count * Sum(class_weights[k]);
                    counts[k][row + lane] = 0;
                }
    }

    // Write the running sums of all classes as a wide table.
    void sum_left(int32_t* wide) {
        sum_columns<N>(left, before[0]);
        for (int row = 0; row < N; row += WIDTH)
            for (int lane = 0; lane < WIDTH; ++lane) left[row + lane] = Count(left[row + lane] + before[0][lane]);
        widen<N>(left, wide);
    }

#if HAS_PAIR_PRODUCTS
    void add_pair_products() {
        constexpr int LANES_OF_WORDS = sizeof(Words) / 2, HALF = LANES_OF_WORDS / 2;
        Words weights[CLASSES_TOGETHER / 2];
        for (int k = 0; k < CLASSES_TOGETHER; k += 2)
            weights[k / 2] = interleave_low(everywhere16(class_weights[k]), everywhere16(class_weights[k + 1]));
        for (int b = 0; b < N; b += LANES_OF_WORDS) {
            Words same_sums[2] = {load_words(same + b), load_words(same + b + HALF)};
            Words all_sums[2] = {load_words(all + b), load_words(all + b + HALF)};
            for (int k = 0; k < CLASSES_TOGETHER; k += 2) {
                Words two[2];
                for (int c = 0; c < 2; ++c) {
                    Count* own = counts[k + c] + b;
                    two[c] = sum16(load_words(own), load_words(before[k + c] + b % WIDTH));
                    store_words(own, Words{});
                }
                const Words pairs[2] = {interleave_low(two[0], two[1]), interleave_high(two[0], two[1])};
                for (int half = 0; half < 2; ++half) {
                    same_sums[half] = sum32(same_sums[half], pair_products(pairs[half], pairs[half]));
                    all_sums[half] = sum32(all_sums[half], pair_products(pairs[half], weights[k / 2]));
                }
            }
            for (int half = 0; half < 2; ++half) {
                store_words(same + b + half * HALF, same_sums[half]);
                store_words(all + b + half * HALF, all_sums[half]);
            }
        }
    }
#endif
};

// The entries of a node, class by class, and the search for its best split.
class Node {
  public:
    const Entry* entries = nullptr;
    int32_t n = 0, weight = 0;
    int64_t squares = 0;  // sum over classes of the squared weight
    std::vector<Run> runs;

    void set(const Entry* node_entries, int32_t n_entries) {
        entries = node_entries;
        n = n_entries;
        weight = 0;
        squares = 0;
        n_short_ = 0;
        runs.clear();
        for (int32_t start = 0, i = 0; start < n; start = i) {
            const uint32_t label = entries[start].label();
            int32_t sum = 0;
            for (; i < n && entries[i].label() == label; ++i) sum += int32_t(entries[i].weight());
            runs.push_back({label, start, i, sum});
            n_short_ += runs.back().is_short();
            weight += sum;
            squares += int64_t(sum) * sum;
        }
        if (weight > MAX_SMALL) return;
        for (int32_t i = 0; i < n; ++i) weights_[i] = uint8_t(entries[i].weight());
        std::memset(bins_ + n, BINS - 1, MAX_BYTES);  // thresholds that no row is above
    }

    // Replace the best split by one at this feature if that has a higher score. column: the bin of each row.
    void search(const uint8_t* column, int32_t n_bins, int32_t feature, Split& best) {
        if (weight > MAX_SMALL) {
            if (is_constant(column)) return;
            if (weight > MAX_MEDIUM)
                search_bins<BINS, uint32_t, int64_t>(column, feature, best);
            else if (n_bins > FEW_BINS)
                search_bins<BINS, uint16_t, int32_t>(column, feature, best);
            else
                search_bins<FEW_BINS, uint16_t, int32_t>(column, feature, best);
            return;
        }
        for (int32_t i = 0; i < n; ++i) bins_[i] = column[entries[i].row];
        if (bins_[0] == bins_[n - 1] && std::count(bins_, bins_ + n, bins_[0]) == n) return;  // constant
        const uint8_t* thresholds = n_bins < n ? ALL_BINS.values : bins_;
        const int32_t n_thresholds = std::min(n, n_bins);
        if (n_thresholds <= 16)
            search_thresholds<16>(thresholds, n_thresholds, feature, best);
        else if (n_thresholds <= 32)
            search_thresholds<std::min(MAX_BYTES, 32)>(thresholds, n_thresholds, feature, best);
        else
            search_thresholds<MAX_BYTES>(thresholds, n_thresholds, feature, best);
    }

  private:
    uint8_t bins_[MAX_SMALL + MAX_BYTES], weights_[MAX_SMALL];
    int32_t n_short_ = 0;

    bool is_constant(const uint8_t* column) const {
        const uint8_t first = column[entries[0].row];
        for (int32_t i = n - 1; i > 0; --i)
            if (column[entries[i].row] != first) return false;
        return true;
    }

    // Compare N thresholds at a time with the bin of each row.
    template <int N>
    void search_thresholds(const uint8_t* thresholds, int32_t n_thresholds, int32_t feature, Split& best) {
        typedef typename VectorOf<uint8_t, N>::type Bytes;
        typedef typename VectorOf<uint16_t, N / 2>::type Shorts;
        for (int32_t first = 0; first < n_thresholds; first += N) {
            Bytes bins, left = {};
            std::memcpy(&bins, thresholds + first, N);
            Shorts same[2] = {}, all[2] = {};  // of every other threshold, as in `Tables`
            for (const Run& run : runs) {
                Bytes count = {};
                for (int32_t i = run.start; i < run.stop; ++i)
#if defined(__AVX512BW__)
                    count += bins >= bins_[i] ? Bytes{} + weights_[i] : Bytes{};  // by mask registers
#else
                    count += (Bytes)(bins >= bins_[i]) & weights_[i];
#endif
                left += count;
                const Shorts counts[2] = {(Shorts)count & 255, (Shorts)count >> 8};
                for (int half = 0; half < 2; ++half) {
                    same[half] += counts[half] * counts[half];
                    all[half] += counts[half] * uint16_t(run.weight);
                }
            }
            const Shorts lefts[2] = {(Shorts)left & 255, (Shorts)left >> 8};
            take_best<N>((const uint16_t*)lefts, (const uint16_t*)same, (const uint16_t*)all, thresholds + first,
                         feature, best);
        }
    }

    template <int N>
    void take_best(const uint16_t* left, const uint16_t* same, const uint16_t* all, const uint8_t* thresholds,
                   int32_t feature, Split& best) const {
        alignas(64) int32_t bits[N];
        const int32_t highest = score<N>(left, same, all, bits);
        const bool is_equal = highest == bits_of(best.score) && feature == best.feature;  // of thresholds before these
        if (highest <= bits_of(best.score) && !is_equal) return;
        int bin = is_equal ? best.bin : BINS;
        for (int half = 0; half < 2; ++half)
            for (int j = 0; j < N / 2; ++j)
                if (bits[half * N / 2 + j] == highest)
                    bin = std::min(bin, int(thresholds[2 * j + (half == IS_LITTLE_ENDIAN)]));
        take(highest, feature, bin, best);
    }

    // Count the rows of each bin, class by class.
    template <int N, typename Count, typename Sum>
    void search_bins(const uint8_t* column, int32_t feature, Split& best) const {
        const WideOrder<N, Count>& order = WIDE_ORDER<N, Count>;
        Tables<N, Count, Sum> tables;
        const bool has_steps = n_short_ >= MIN_SHORT_RUNS;
        Sum same_steps[N], all_steps[N];
        if (has_steps) {
            std::memset(same_steps, 0, sizeof same_steps);
            std::memset(all_steps, 0, sizeof all_steps);
        }
        for (const Run& run : runs) {
            if (has_steps && run.is_short()) {
                add_steps<N>(run, column, order.lanes, tables.left, same_steps, all_steps);
                continue;
            }
            Count* counts = tables.counts[tables.n_classes];
            for (int32_t i = run.start; i < run.stop; ++i)
                counts[place_of<N>(column[entries[i].row])] += Count(entries[i].weight());
            tables.class_weights[tables.n_classes++] = Count(run.weight);
            if (tables.n_classes == CLASSES_TOGETHER) tables.flush();
        }
        if (tables.n_classes) tables.flush();
        if (has_steps) {
            add_running_sums<N>(same_steps, order.lanes, tables.same);
            add_running_sums<N>(all_steps, order.lanes, tables.all);
        }
        alignas(64) int32_t left[N], bits[N];
        tables.sum_left(left);
        const int32_t highest = score<N>(left, tables.same, tables.all, bits);
        if (highest <= bits_of(best.score)) return;
        int bin = BINS;
        for (int b = 0; b < N; ++b)
            if (bits[b] == highest) bin = std::min(bin, order.bins[b]);
        take(highest, feature, bin, best);
    }

    // Add what each of the few rows of a class changes at its bin.
    template <int N, typename Count, typename Sum>
    void add_steps(const Run& run, const uint8_t* column, const uint8_t* lanes, Count* left, Sum* same,
                   Sum* all) const {
        typedef VectorOf<uint16_t, SHORT_RUN>::type Shorts;
        uint16_t keys[SHORT_RUN] = {}, before[SHORT_RUN];  // before: weight of the rows that come before each by key
        const Entry* own = entries + run.start;
        const int n_rows = run.stop - run.start;
        for (int i = 0; i < n_rows; ++i) keys[i] = uint16_t(column[own[i].row] * SHORT_RUN + i);
        Shorts all_keys, sums = {};
        std::memcpy(&all_keys, keys, sizeof keys);
        for (int i = 0; i < n_rows; ++i) sums += (Shorts)(all_keys > keys[i]) & uint16_t(own[i].weight());
        std::memcpy(before, &sums, sizeof before);
        for (int i = 0; i < n_rows; ++i) {
            const uint8_t bin = uint8_t(keys[i] / SHORT_RUN);
            const Sum w = Sum(own[i].weight());
            Count& left_of = left[place_of<N>(bin)];
            left_of = Count(left_of + w);
            same[lanes[bin]] += w * (2 * Sum(before[i]) + w);
            all[lanes[bin]] += w * run.weight;
        }
    }

    // Score N splits by the sums of `Tables`, and return the bits of the highest score. bits: those of all scores, 0
    // where one side is empty.
    template <int N, typename Count, typename Sum>
    int32_t score(const Count* left, const Sum* same, const Sum* all, int32_t* bits) const {
        typedef typename std::conditional<sizeof(Sum) == 8, int64_t, int32_t>::type Wide;
        alignas(64) float scores[N];
        for (int j = 0; j < N; ++j) {
            const int32_t l = int32_t(left[j]), r = weight - l;
            const Wide of_left = Wide(same[j]), of_right = Wide(squares) - 2 * Wide(all[j]) + of_left;
            scores[j] = float(of_left) / float(l) + float(of_right) / float(r);
        }
        std::memcpy(bits, scores, sizeof scores);
        int32_t highest = 0;
        for (int j = 0; j < N; ++j) {
            const int32_t l = int32_t(left[j]), r = weight - l;
            bits[j] &= -int32_t((l > 0) & (r > 0));
            highest = std::max(highest, bits[j]);
        }
        return highest;
    }

    static void take(int32_t bits, int32_t feature, int bin, Split& best) {
        std::memcpy(&best.score, &bits, sizeof bits);
        best.feature = feature;
        best.bin = bin;
    }
};

}  // namespace
