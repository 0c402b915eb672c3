"""Language trunks: the transformer of a language model with its embedding and its output layer."""
