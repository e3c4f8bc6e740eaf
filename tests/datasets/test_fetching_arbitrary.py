"""Under any sequence of faults a file is complete or absent, and the next fetch completes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import s3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubench.core.errors import InputError
from gpubench.datasets.cache import cache_path
from gpubench.datasets.catalogue import CatalogueEntry
from gpubench.datasets.fetching import fetch

CONTENT = np.random.default_rng(1).bytes(50_000)
NUMBERS = itertools.count()

FAULTS = st.one_of(
    st.builds(s3.Fault, cut_after=st.integers(0, len(CONTENT))),
    st.builds(s3.Fault, flip_at=st.integers(0, 9)),
    st.builds(s3.Fault, method=st.sampled_from(["HEAD", "GET"]), drop=st.just(True)),
    st.builds(s3.Fault, method=st.sampled_from(["HEAD", "GET"]), status=st.sampled_from([429, 500, 503])),
    st.builds(s3.Fault, method=st.sampled_from(["HEAD", "GET"]), status=st.sampled_from([403, 404])),
)


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(FAULTS, max_size=9))
def test_any_sequence_of_faults_leaves_a_whole_file_or_none(
    faults: list[s3.Fault], put: Callable[..., str], cache: str, proxy: s3.Proxy
) -> None:
    entry = CatalogueEntry("cells", put(f"{next(NUMBERS)}.h5ad", CONTENT))
    proxy.reset()
    proxy.faults.extend(faults)
    place = cache_path(entry)
    try:
        fetch(entry)
    except InputError:
        assert not place.exists()
    else:
        assert place.read_bytes() == CONTENT
    proxy.reset()
    assert fetch(entry)[0].read_bytes() == CONTENT
    assert not list(place.parent.glob(f"{place.name}.*.part"))
