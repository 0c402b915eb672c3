"""A small wheeled robot seen from above, told where to go, what to go around and which line to follow. numpy and pillow alone."""
