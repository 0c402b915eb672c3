"""Policies that others published, opened by their own files: one module for each family in `families`."""
