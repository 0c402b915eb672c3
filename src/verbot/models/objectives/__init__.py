"""Contrasts: what is seen and what is said, each as one direction of a common space, near where they fit and apart where not."""
