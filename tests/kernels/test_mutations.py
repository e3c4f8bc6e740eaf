"""The tests of the kernels find bugs: each deliberate bug below makes the check of its kernel fail.

A bug is found by "check", wrong results or the address and undefined-behaviour sanitizers; by "far", arrays of more
than 2^31 values; by "race", the thread sanitizer; or by "compiler", warnings that are errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import pytest
from kernels.emulator import NotCompiled

from gpubench.engines.cuda import kernels

FoundBy = Literal["check", "far", "race", "compiler"]


@dataclass(frozen=True)
class Mutation:
    """A bug: `old` in the source of the kernel, with the common code, is replaced by `new`."""

    kernel: str
    what: str
    old: str
    new: str = ""
    by: FoundBy = "check"

    def __str__(self) -> str:
        return f"{self.kernel}: {self.what}"

    def source(self) -> str:
        text = kernels.source(self.kernel)
        assert text.count(self.old) == 1, f"{self}: {self.old!r} is there {text.count(self.old)} times"
        return text.replace(self.old, self.new)


def barrier(kernel: str, what: str, before: str, after: str, by: FoundBy = "check") -> Mutation:
    """Return a mutation without the barrier between two pieces of code."""
    kind = "__syncthreads" if kernel in ("rerank", "search_exactly", "group_means") else "__syncwarp"
    # the indentation of the barrier is not known
    text = kernels.source(kernel)
    found = [old for n in range(0, 28, 4) if text.count(old := f"{before}\n{' ' * n}{kind}();\n{after}") == 1]
    assert len(found) == 1, f"{kernel}: the barrier {what} is there {len(found)} times"
    return Mutation(kernel, f"no barrier {what}", found[0], f"{before}\n{after}", by)


STALLED_SECONDS = 30
"""Seconds after which a bug that makes a kernel deadlock counts as found."""

NOT_ATOMIC = (
    "atomicAdd(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));",
    "*target += value;",
)

MUTATIONS = (
    # silhouette_tile
    Mutation("silhouette_tile", "a column of the next segment", "column + c < end)", "column + c <= end)"),
    Mutation("silhouette_tile", "no last strip", "(n_columns + STRIP_COLUMNS - 1) / STRIP", "n_columns / STRIP"),
    Mutation("silhouette_tile", "rows beyond the last", "min(STRIP_ROWS, n_rows - row)", "STRIP_ROWS"),
    Mutation("silhouette_tile", "distances of cells to themselves", "counted &= ~(1u << itself);", "counted = inside;"),
    Mutation("silhouette_tile", "row segments run together", "segment != row_segment", "false"),
    Mutation("silhouette_tile", "column segments run together", "outside - inside > 1", "outside - inside > 2"),
    Mutation(
        "silhouette_tile",
        "both sides on the diagonal",
        "both_sides ? column_sums : nullptr",
        "both_sides >= 0 ? column_sums : nullptr",
    ),
    Mutation("silhouette_tile", "row sums in another unit", "(row_sum) << tile.shift", "(row_sum)"),
    Mutation("silhouette_tile", "not all dimensions", "t < cells.d;", "t < cells.d - 1;"),
    Mutation("silhouette_tile", "never refined", "squared[c] < close)", "squared[c] < -close)"),
    Mutation("silhouette_tile", "refined from the lane's own column", "(source - lane())", "0"),
    barrier("silhouette_tile", "before row sums", "    }", "    if (lane() < n_rows) {"),
    barrier("silhouette_tile", "before the next strip", "    }", "    if (sums.columns) {", "race"),
    Mutation("silhouette_tile", "sums not atomic", *NOT_ATOMIC, "race"),
    Mutation(
        "silhouette_tile",
        "32-bit index of products",
        "(row + r + u) * tile.products_stride",
        "(row + r + u) * static_cast<int>(tile.products_stride)",
        "far",
    ),
    Mutation(
        "silhouette_tile",
        "32-bit index of a cell",
        "static_cast<Index>(cells.order[position])",
        "cells.order[position]",
        "far",
    ),
    Mutation(
        "silhouette_tile",
        "32-bit index of row sums",
        "column_segments[begin] * row_sums_stride",
        "column_segments[begin] * static_cast<int>(row_sums_stride)",
        "far",
    ),
    # topk_update
    Mutation("topk_update", "a column too many", "inside = column < n_columns", "inside = column <= n_columns"),
    Mutation("topk_update", "a cell is its own neighbour", "column != itself &&", "(inside || column != itself) &&"),
    Mutation("topk_update", "ids within the tile", "candidate(key, first_column + column)", "candidate(key, column)"),
    Mutation(
        "topk_update",
        "a tie goes to the first that came",
        "    unsigned lanes = __ballot_sync(ALL_LANES, is_candidate && entry < row.limit);",
        "    unsigned lanes = __ballot_sync(ALL_LANES, is_candidate && key_of(entry) < key_of(row.limit));",
    ),
    Mutation("topk_update", "the limit itself is lost", "if (entry <= worst) entries", "if (entry < worst) entries"),
    Mutation("topk_update", "rank off by one", "rank_in_digit > histogram[digit]", "rank_in_digit >= histogram[digit]"),
    Mutation("topk_update", "a limit where nothing is left out", "row.count > keep)", "row.count >= keep)"),
    Mutation("topk_update", "buffer overflow", "__popc(lanes) > capacity", "__popc(lanes) > capacity + 1"),
    Mutation("topk_update", "negative keys last", "bits & 0x80000000u ? ~bits : bits |", "bits |"),
    Mutation("topk_update", "NaN is nearest", " && key == key"),
    Mutation("topk_update", "two zeros", "__float_as_uint(key + 0.0f)", "__float_as_uint(key)"),
    barrier("topk_update", "after clearing", "histogram[b] = 0;", "        for (int e = lane()"),
    barrier("topk_update", "before the ranks", "        }", "        found |="),
    barrier("topk_update", "before clearing again", "<< shift;", "    }\n    return found", "race"),
    barrier("topk_update", "before the row is written", "count and limit", "        if (lane() == 0) {", "race"),
    barrier("topk_update", "before entries move", "have read theirs", "        if (entry <= worst)", "race"),
    Mutation(
        "topk_update",
        "histogram not atomic",
        "atomicAdd(&histogram[entries[e] >> shift & (DIGITS - 1)], 1);",
        "histogram[entries[e] >> shift & (DIGITS - 1)] += 1;",
        "race",
    ),
    Mutation(
        "topk_update",
        "32-bit index of products",
        "r * products_stride",
        "static_cast<int>(r) * static_cast<int>(products_stride)",
        "far",
    ),
    # rerank
    Mutation("rerank", "a tie goes to the larger id", "id < other_id", "id > other_id"),
    Mutation("rerank", "an entry behind the last", "c < counts[row]", "c <= counts[row]"),
    Mutation("rerank", "a candidate left out", "first += n_groups)", "first += n_groups + 1)"),
    Mutation("rerank", "sure of a tie with the unseen", ">= unseen", "> unseen"),
    Mutation("rerank", "rounding is ignored", "+ offsets[row]", "+ 0 * offsets[row]"),
    Mutation("rerank", "float32 differences", "(a[t]) - static_cast<double>(b[t])", "(a[t] - b[t])"),
    Mutation("rerank", "not all dimensions", "t < d; t += SEARCH_LANES", "t < d - 1; t += SEARCH_LANES"),
    Mutation("rerank", "sums of other lanes", "sum_of_lanes<SEARCH_LANES>", "sum_of_lanes<WARP>"),
    barrier("rerank", "before sorting", "        }", "        sort_neighbors"),
    barrier("rerank", "between steps of sorting", "            }", "        }\n    }\n}"),
    barrier("rerank", "before the next row", "        }", "    }\n}\n", "race"),
    Mutation("rerank", "32-bit index of a cell", "static_cast<Index>(id_of(entry)) * d", "id_of(entry) * d", "far"),
    # search_exactly
    Mutation(
        "search_exactly", "a cell is its own neighbour", "!(same_cells && cell == row[r])", "!(same_cells && cell < 0)"
    ),
    Mutation("search_exactly", "a cell of the next piece", "cell < stop", "cell <= stop"),
    Mutation("search_exactly", "no last cells", "(n + n_pieces - 1) / n_pieces", "n / n_pieces"),
    Mutation(
        "search_exactly",
        "limit too low",
        "limit[r] = squared[r * size + k - 1]",
        "limit[r] = squared[r * size + (k > 1 ? k - 2 : 0)]",
    ),
    Mutation("search_exactly", "entries that are nobody", "counts[r] = min(found, k)", "counts[r] = k"),
    Mutation("search_exactly", "buffer overflow", "found + round > size ||", "found > size ||"),
    barrier("search_exactly", "before the counts are read", "            }", "#pragma unroll", "race"),
    barrier("search_exactly", "before sorting", "                    }", "                    sort_neighbors"),
    barrier("search_exactly", "before the next round", "            }", "        }\n        for (int r", "race"),
    barrier("search_exactly", "before the next task", "        }", "    }\n}\n", "race"),
    Mutation("search_exactly", "count not atomic", "atomicAdd(&counts[r], 1)", "counts[r]++", "race"),
    Mutation("search_exactly", "32-bit cells", "const Index cell", "const int cell", "compiler"),
    Mutation("search_exactly", "32-bit index of a query", "Index row[MAX_TOGETHER]", "int row[MAX_TOGETHER]", "far"),
    Mutation("search_exactly", "rows of another block", "task / n_pieces * together", "task / n_pieces"),
    Mutation("search_exactly", "no last rows", "(n_rows + together - 1) / together", "n_rows / together"),
    Mutation(
        "search_exactly",
        "a row that is not there",
        "first_row + min(r, together - 1), n_rows - 1",
        "first_row + r, n_rows",
    ),
    Mutation("search_exactly", "one count for all rows", "atomicAdd(&counts[r], 1)", "atomicAdd(&counts[0], 1)"),
    Mutation("search_exactly", "rows share their memory", "const int slot = r * size +", "const int slot ="),
    # neighbor_entropy
    Mutation("neighbor_entropy", "without the cell itself", "j <= k", "j < k"),
    Mutation("neighbor_entropy", "the code of the first cell for all", "own[cell]", "own[0]"),
    Mutation("neighbor_entropy", "a code in the wrong bin", "bin < bins", "bin <= bins"),
    Mutation("neighbor_entropy", "a code left out", "first_code += bins", "first_code += bins + 1"),
    Mutation("neighbor_entropy", "counts of the cell before", "                counts[b] = 0;\n"),
    Mutation("neighbor_entropy", "counts begin as garbage", "b += WARP) counts[b] = 0;", "b += WARP) continue;"),
    Mutation("neighbor_entropy", "divided by k", "/ (k + 1)", "/ k"),
    barrier("neighbor_entropy", "after clearing", "counts[b] = 0;", "    for (Index cell", "race"),
    barrier("neighbor_entropy", "before the sum", "            }", "            for (int b = lane()"),
    barrier("neighbor_entropy", "after the sum", "            }", "        }\n        total = sum", "race"),
    Mutation("neighbor_entropy", "counts not atomic", "atomicAdd(&counts[bin], 1)", "counts[bin] += 1", "race"),
    Mutation(
        "neighbor_entropy",
        "32-bit index of a row",
        "cell * indices_stride",
        "static_cast<int>(cell) * static_cast<int>(indices_stride)",
        "far",
    ),
    # neighbor_value_distance
    Mutation(
        "neighbor_value_distance", "a cell beyond the last", "cell < m ? k_per_cell[cell] : 0", "k_per_cell[cell]"
    ),
    Mutation("neighbor_value_distance", "neighbours counted twice", "j += CELL_LANES", "j += CELL_LANES - 1"),
    Mutation("neighbor_value_distance", "signed differences", "fabs(own[cell] -", "(own[cell] -"),
    Mutation("neighbor_value_distance", "divided by k + 1", "total / k", "total / (k + 1)"),
    Mutation("neighbor_value_distance", "sums of other lanes", "sum_of_lanes<CELL_LANES>", "sum_of_lanes<WARP>"),
    Mutation("neighbor_value_distance", "the value of the first cell for all", "fabs(own[cell]", "fabs(own[0]"),
    Mutation("neighbor_value_distance", "cells left out", "first += warps_in_grid() * WARP_CELLS", "first += m"),
    Mutation(
        "neighbor_value_distance",
        "32-bit index of a row",
        "cell * indices_stride",
        "static_cast<int>(cell) * static_cast<int>(indices_stride)",
        "far",
    ),
    # fuzzy_memberships
    Mutation("fuzzy_memberships", "copies are the nearest", "row[zeros] <= 0.0f", "row[zeros] < 0.0f"),
    Mutation("fuzzy_memberships", "target without the cell itself", "float>(k + 1)", "float>(k)"),
    Mutation("fuzzy_memberships", "mean without the cell itself", "(mean) / (k + 1)", "(mean) / k"),
    Mutation("fuzzy_memberships", "bisection the wrong way", "total > target", "total < target"),
    Mutation(
        "fuzzy_memberships", "sums of other lanes", "sum_of_lanes<CELL_LANES>(total)", "sum_of_lanes<WARP>(total)"
    ),
    Mutation("fuzzy_memberships", "no floor", "MIN_SIGMA_SHARE = 1e-3", "MIN_SIGMA_SHARE = 1e-9"),
    Mutation(
        "fuzzy_memberships",
        "a cell beyond the last",
        "min(first + lane() / CELL_LANES, n - 1)",
        "first + lane() / CELL_LANES",
    ),
    Mutation(
        "fuzzy_memberships", "the last cell written twice", "if (first + lane() / CELL_LANES >= n) continue;", by="race"
    ),
    Mutation(
        "fuzzy_memberships",
        "32-bit index of a row",
        "cell * distances_stride",
        "static_cast<int>(cell) * static_cast<int>(distances_stride)",
        "far",
    ),
    # symmetrise
    Mutation("symmetrise", "the last neighbour is not seen", "(j < k && neighbors_of", "(j < k - 1 && neighbors_of"),
    Mutation("symmetrise", "sum instead of union", " - forward * reverse"),
    Mutation("symmetrise", "its own membership", "memberships[neighbor * k + j]", "memberships[edge]"),
    Mutation("symmetrise", "an edge beyond the last", "edge < n * k", "edge <= n * k"),
    Mutation("symmetrise", "the wrong edges are one-sided", "one_sided[edge] = j == k", "one_sided[edge] = j != k"),
    Mutation(
        "symmetrise",
        "32-bit index of a row",
        "neighbor * indices_stride",
        "static_cast<int>(neighbor) * static_cast<int>(indices_stride)",
        "far",
    ),
    # rank
    Mutation("rank", "the last of a run is not seen", "n_beyond + 1)", "n_beyond)"),
    Mutation("rank", "a value beyond the row", "n - 1 - at", "n - at"),
    Mutation("rank", "counted from 0", " + 1.0;", ";"),
    Mutation("rank", "first rank instead of average", "first + last", "first + 0 * last + first"),
    Mutation("rank", "always the first row", "ranks[r * n + order", "ranks[order"),
    Mutation("rank", "a row written by two blocks", "r += gridDim.y", "r += 1", "race"),
    Mutation("rank", "32-bit positions", "for (Index at", "for (int at", "compiler"),
    # rank_sums
    Mutation("rank_sums", "equal control values count as below", "values[middle] < x;", "values[middle] <= x;"),
    Mutation(
        "rank_sums",
        "equal control values are not seen",
        "AND_EQUAL ? values[middle] <= x",
        "AND_EQUAL ? values[middle] < x",
    ),
    Mutation("rank_sums", "zeros below negative values", "(x > 0.0 ? control_zeros : 0)", "control_zeros"),
    Mutation(
        "rank_sums", "no zeros below positive values", "(x > 0.0 ? control_zeros : 0)", "(x > 1e9 ? control_zeros : 0)"
    ),
    Mutation("rank_sums", "a value of the next segment", "i < last; i += WARP", "i <= last; i += WARP"),
    Mutation("rank_sums", "some values left out", "i += WARP", "i += 2 * WARP"),
    Mutation("rank_sums", "control of another gene", "starts[segment - group + control]", "starts[control]"),
    Mutation(
        "rank_sums", "a control value left out", "group + control + 1];", "group + control + 1] - (last > first);"
    ),
    Mutation("rank_sums", "ties counted from 0", ", x) + 1;  // of", ", x);  // of"),
    Mutation("rank_sums", "ties of the control twice", "is_control ? nth : equal + nth", "equal + nth"),
    Mutation("rank_sums", "ties of zeros twice", "is_control ? cubes(zeros) :", "zeros < 0 ? cubes(zeros) :"),
    Mutation("rank_sums", "zeros of the control alone", " - cubes(control_zeros);", ";"),
    Mutation(
        "rank_sums",
        "zeros above negative control values",
        "2 * negative + control_zeros",
        "0 * negative + control_zeros",
    ),
    Mutation("rank_sums", "32-bit positions", "for (Index i = first", "for (int i = first", "compiler"),
    Mutation("rank_sums", "one lane's values", "twice_u = sum_of_lanes<WARP>(twice_u);", "twice_u += 0;"),
    Mutation("rank_sums", "half of the lanes' ties", "sum_of_lanes<WARP>(third", "sum_of_lanes<WARP / 2>(third"),
    Mutation("rank_sums", "a segment written by two warps", "segment += warps_in_grid()", "segment += 1", "race"),
    # group_means
    Mutation("group_means", "a row of the next group", "i < starts[group + 1]", "i <= starts[group + 1]"),
    Mutation("group_means", "a warp left out", "w < GROUP_WARPS", "w < GROUP_WARPS - 1"),
    Mutation("group_means", "a column beyond the last", "        if (column < d) {", "        if (column <= d) {"),
    Mutation("group_means", "no last columns", "(d + WARP - 1) / WARP", "(d > WARP ? d / WARP : 1)"),
    barrier("group_means", "before the sums are added", "= sum;", "        if (warp_in_block() == 0"),
    barrier("group_means", "before the next group", "        }", "    }\n}\n", "race"),
    Mutation("group_means", "32-bit index of a row", "static_cast<Index>(order[i]) * d", "order[i] * d", "far"),
)


@pytest.fixture(scope="module", autouse=True)
def _compiled_ahead(request, compiler) -> None:
    """Start to compile the mutations that will be tested, on all cores."""
    chosen = [item.callspec.params["mutation"] for item in request.session.items if "mutation" in item.fixturenames]
    compiler.prepare([("group_means", kernels.source("group_means"), "thread")])  # which all races wait for
    compiler.prepare([(m.kernel, m.source(), "thread" if m.by == "race" else "address") for m in chosen])


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_mutation_is_found(emulate, thread_sanitizer, mutation) -> None:
    tests = import_module(f"kernels.test_{mutation.kernel}")
    if mutation.by == "compiler":
        with pytest.raises(NotCompiled, match="-Werror=conversion"):
            emulate(mutation.kernel, mutation.source())
        return
    if mutation.by == "race":
        run = emulate(mutation.kernel, mutation.source(), sanitizer=thread_sanitizer())
    else:
        run = emulate(mutation.kernel, mutation.source())
    run.max_seconds = STALLED_SECONDS
    with pytest.raises(AssertionError):
        check_in_both_orders(tests.check_far if mutation.by == "far" else tests.check, run)
    run.close()


def check_in_both_orders(check, run) -> None:
    for run.schedule in (0, 1):
        check(run)


def test_every_kernel_has_mutations_of_every_possible_kind() -> None:
    for name in kernels.KERNELS:
        text = kernels.source(name)
        found_by = {m.by for m in MUTATIONS if m.kernel == name}
        assert "check" in found_by, name
        assert found_by & {"far", "compiler"}, f"{name}: no mutation to 32-bit indices"
        assert "race" in found_by or "__sync" not in text.partition('extern "C"')[2], f"{name}: no race"
