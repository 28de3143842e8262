"""What a training of faces begins from, as the tests of the training draw it."""

from tests.train.conftest import material, one_thread  # noqa: F401
from tests.train.conftest import options as face_options  # noqa: F401
