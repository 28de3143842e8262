"""Images as the rooms below share them: where they lie, how they are decoded and augmented, and streamed."""

import os

# A stranger's picture of a few kilobytes may be gigabytes when decoded. OpenCV reads its limit when it is imported,
# which images.py does next; whoever imported it before zennas has OpenCV's own, 2^30.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
# What it warns of is damage, which whoever decodes is told of by name.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
