// Count Mann-Whitney's U and the ties of every group against the control, gene by gene.
//
//     u_g    = number of pairs (cell of g, control cell) in which the cell of g has the larger value, a tie as 1/2
//     ties_g = sum of t^3 - t over the runs of t equal values in g and the control, less the same sum in the control
//
// Zeros are not stored: those of a segment, the cells of a group in a gene, are as many as its group has more cells
// than it has values. A warp takes one segment, whose values its lanes look up in the segment of the control by
// bisection: the control values below and equal to each. The t-th of the cells and control cells of a value adds 3 t (t
// - 1) to the ties. The row of the control has 0 for u, and the ties of the control alone. All sums are integers.
//
// Shapes  values (n_values) float64, nonzero, by segment, ascending in each; starts (n_segments + 1) int64, where each
//         segment begins: n_groups segments for each gene; sizes (n_groups) int64, cells of each group
//         u (n_segments) float64, ties (n_segments) int64, written
// Launch  a warp per segment
// Bytes   reads 8 per value, and for each about 3 log2(values of a segment) at random in segments that fit the cache;
//         writes 16 per segment
// Twin    rank_sums in gpubench/engines/common/rank_sums.py

// Return how many of the ascending values in [first, last) are below x, or, with AND_EQUAL, at most x.
template <bool AND_EQUAL>
__device__ inline Index count_below(const double* values, Index first, Index last, double x) {
    const Index begin = first;
    while (first < last) {
        const Index middle = first + (last - first) / 2;
        const bool is_below = AND_EQUAL ? values[middle] <= x : values[middle] < x;
        (is_below ? first : last) = is_below ? middle + 1 : middle;
    }
    return first - begin;
}

__device__ inline Index cubes(Index t) { return t * (t - 1) * (t + 1); }

extern "C" __global__ void __launch_bounds__(256)
    rank_sums(const double* __restrict__ values, const Index* __restrict__ starts, const Index* __restrict__ sizes,
              Index n_segments, int n_groups, int control, double* u, Index* ties) {
    for (Index segment = warp_in_grid(); segment < n_segments; segment += warps_in_grid()) {
        const int group = static_cast<int>(segment % n_groups);
        const Index first = starts[segment], last = starts[segment + 1];
        const Index control_first = starts[segment - group + control];
        const Index control_last = starts[segment - group + control + 1];
        const Index control_zeros = sizes[control] - (control_last - control_first);
        const bool is_control = group == control;
        Index twice_u = 0, third_of_ties = 0;
        for (Index i = first + lane(); i < last; i += WARP) {
            const double x = values[i];
            const Index below = count_below<false>(values, control_first, control_last, x);
            const Index equal = count_below<true>(values, control_first, control_last, x) - below;
            const Index nth = i - first - count_below<false>(values, first, last, x) + 1;  // of the cells of value x
            const Index t = is_control ? nth : equal + nth;
            twice_u += 2 * (below + (x > 0.0 ? control_zeros : 0)) + equal;
            third_of_ties += t * (t - 1);
        }
        twice_u = sum_of_lanes<WARP>(twice_u);
        third_of_ties = sum_of_lanes<WARP>(third_of_ties);
        if (lane() == 0) {
            const Index zeros = sizes[group] - (last - first);
            const Index negative = count_below<false>(values, control_first, control_last, 0.0);
            twice_u += zeros * (2 * negative + control_zeros);
            const Index of_zeros = is_control ? cubes(zeros) : cubes(zeros + control_zeros) - cubes(control_zeros);
            u[segment] = is_control ? 0.0 : 0.5 * static_cast<double>(twice_u);
            ties[segment] = 3 * third_of_ties + of_zeros;
        }
    }
}
