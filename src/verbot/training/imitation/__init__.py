"""Training from demonstrations."""
