"""Action heads: fused tokens to action chunks."""
