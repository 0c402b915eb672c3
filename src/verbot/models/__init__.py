"""Networks: a backbone makes features of images, instructions and states; objectives learn from them, a head predicts actions."""
