"""A Ray that cannot be had."""

import pytest

from zennas.ray_connection import STARTS, connect
from zennas.records import ProcessLostError


@pytest.mark.slow  # Ray starts half, as often as it is tried
def test_a_private_ray_that_does_not_come_up_is_no_fault_of_what_was_given():
    said = []
    with pytest.raises(ProcessLostError, match=rf"did not come up in {STARTS} tries: .*Nothing is wrong with what was"):
        connect(None, say=said.append, object_store_memory=1)  # of which Ray wants 75 million
    assert len(said) == STARTS - 1 and all("started again" in text for text in said)
