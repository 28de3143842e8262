"""Finding winners: evolution proposes, workers score, the device measures, the ledger keeps."""

from zennas.api import make_callable

make_callable(__name__)
