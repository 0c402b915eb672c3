"""Pages, plots and texts of an evaluation."""
