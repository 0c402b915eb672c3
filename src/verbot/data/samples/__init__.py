"""Training samples made from stored episodes."""
