"""Finding winners: evolution proposes, workers score, the device measures, the ledger keeps."""
