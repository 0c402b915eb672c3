"""Export of a network to graphs of other runtimes. It needs torch; what it makes does not."""
