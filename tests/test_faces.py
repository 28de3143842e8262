"""The names of 0.1.0 under which scripts import what reads data."""

import importlib
import sys

import pytest

from zennas.data.images import decode
from zennas.data.sources import open_source
from zennas.data.stream import image_stream
from zennas.tasks.face import pairs


@pytest.fixture
def anew():
    for name in [name for name in sys.modules if name.partition("zennas.faces")[1]]:
        del sys.modules[name]


def test_scripts_of_old_go_on_and_are_told_the_new_name(anew):
    with pytest.warns(DeprecationWarning, match=r"zennas\.faces is zennas\.data now"):
        sources = importlib.import_module("zennas.faces.sources")
    from zennas.faces.images import decode as decode_of_old

    assert sources.open_source is open_source and decode_of_old is decode
    assert importlib.import_module("zennas.faces.pairs") is pairs
    assert importlib.import_module("zennas.faces.stream").FaceStream is image_stream


def test_a_name_that_never_was_is_not_there(anew):
    with pytest.warns(DeprecationWarning), pytest.raises(ModuleNotFoundError):
        importlib.import_module("zennas.faces.spoons")
