"""State and previous-action encoders."""
