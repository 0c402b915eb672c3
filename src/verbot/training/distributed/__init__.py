"""Several processes, several devices."""
