"""Worker processes, Ray clusters and progress lines."""
