"""As b01b, but the recorder was killed: metadata.yaml, which it writes last, is absent. The files are called FOLDER_0.mcap and FOLDER_1.mcap.
Right: one episode."""
from _ros import *
import b01b_split
def make(root): b01b_split.make(root); (Path(root) / "rec" / "metadata.yaml").unlink(); return root
