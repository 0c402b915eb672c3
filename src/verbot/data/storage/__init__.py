"""Datasets on disk: layout, crash-safe writing, reading, verification."""
