"""Pages, plots and texts that report an evaluation."""
