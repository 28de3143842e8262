"""What may be built: candidates, the spaces they come from, the networks they stand for and what those cost."""
