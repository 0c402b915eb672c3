"""As b01b, but rec_0.mcap was not copied. Beside it a whole recording. Right: the whole one imported, the other named with the file that it lacks."""
from _ros import *
import b01b_split
def make(root):
    b01b_split.make(root); (Path(root) / "rec" / "rec_0.mcap").unlink(); d = Path(root) / "whole"; bag(d / "whole_0.mcap"); metadata(d, ["whole_0.mcap"]); return root
