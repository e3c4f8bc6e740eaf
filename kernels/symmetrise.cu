// Combine the memberships of both directions of each edge of a neighbour graph: w + w' - w w'.
//
// For the edge from cell i to its j-th neighbour, the row of that neighbour is searched for i: w' is the membership
// found there, or 0. An edge whose reverse is not in the graph is flagged as one-sided. The undirected graph has every
// edge (i, j) with its combined weight and the reverse of every one-sided edge; the host sorts these into CSR.
//
// Shapes  indices (n, k) int32, rows indices_stride elements apart; memberships (n, k) float64
//         weights (n, k) float64 and one_sided (n, k) uint8, written
// Launch  a thread per edge
// Bytes   reads 12 per edge and up to 4 k at random, the indices of a neighbour; writes 9
// Twin    symmetrise in gpubench/engines/cpu/kernels.py

extern "C" __global__ void __launch_bounds__(256)
    symmetrise(const int* __restrict__ indices, Index indices_stride, const double* __restrict__ memberships, Index n,
               int k, double* weights, unsigned char* one_sided) {
    for (Index edge = thread_in_grid(); edge < n * k; edge += threads_in_grid()) {
        const Index cell = edge / k;
        const Index neighbor = indices[cell * indices_stride + edge % k];
        const int* neighbors_of_neighbor = indices + neighbor * indices_stride;
        int j = 0;
        while (j < k && neighbors_of_neighbor[j] != cell) ++j;
        const double forward = memberships[edge];
        const double reverse = j < k ? memberships[neighbor * k + j] : 0.0;
        weights[edge] = forward + reverse - forward * reverse;
        one_sided[edge] = j == k;
    }
}
