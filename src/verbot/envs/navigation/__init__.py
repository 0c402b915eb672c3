"""A small wheeled robot seen from above: it goes to objects, around them, or follows a line. numpy and pillow alone."""
