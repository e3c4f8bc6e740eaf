// Joins the memberships of both directions of each edge of a neighbour graph: w + w' - w w'.
//
// For the edge from cell i to its j-th neighbour the row of that neighbour is searched for i: w' is the membership
// found there, or 0. An edge whose reverse is not in the graph is marked as lone. The undirected graph has every edge
// (i, j) with its joined weight, and the reverse of every lone one; the host sorts these into CSR.
//
// Shapes  indices (n, k) int32, rows indices_stride apart; memberships (n, k) float64
//         joined (n, k) float64 and lone (n, k) uint8, written
// Launch  a thread an edge
// Bytes   reads 12 an edge, and the indices of a neighbour, up to 4 k, at random; writes 9
// Twin    symmetrise in gpubench/engines/cpu/graphs.py

extern "C" __global__ void __launch_bounds__(256)
    symmetrise(const int* __restrict__ indices, Index indices_stride, const double* __restrict__ memberships, Index n,
               int k, double* joined, unsigned char* lone) {
    for (Index edge = thread_in_grid(); edge < n * k; edge += threads_in_grid()) {
        const Index cell = edge / k;
        const Index neighbor = indices[cell * indices_stride + edge % k];
        const int* back = indices + neighbor * indices_stride;
        int place = 0;
        while (place < k && back[place] != cell) ++place;
        const double there = memberships[edge];
        const double reverse = place < k ? memberships[neighbor * k + place] : 0.0;
        joined[edge] = there + reverse - there * reverse;
        lone[edge] = place == k;
    }
}
