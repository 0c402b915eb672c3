"""A tabletop with a seven-joint arm, things of many colors and shapes, and instructions to carry out."""
