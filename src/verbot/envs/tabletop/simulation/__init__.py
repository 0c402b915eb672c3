"""Physics, scene and rendering of the tabletop."""
