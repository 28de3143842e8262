"""What the tests of the gallery share: drawn faces, photographs, networks of two nodes, and the command here."""

import contextlib
import io

import pytest

from tests.align.conftest import drawn, photographs  # noqa: F401 - fixtures
from tests.conftest import Ended
from tests.evaluate.conftest import asked, faces, one_thread  # noqa: F401 - fixtures
from zennas.gallery.__main__ import main


def ran(*arguments):
    """`zennas gallery` in this process, to its end."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return Ended(ended.value.code, out.getvalue(), err.getvalue())
