"""zennas: the best recognition backbone within a measured latency budget, found without training a single candidate."""

__version__ = "0.1.0"
