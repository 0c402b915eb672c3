"""A tabletop with a seven-joint arm, objects of many colors and shapes, and instructions to carry out."""
