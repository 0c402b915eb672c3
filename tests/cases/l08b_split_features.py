"""State and action in parts: observation.state.arm, observation.state.gripper, action.arm, action.gripper (RoboMIND, AgiBot style).
Right: joined in the order that the user gives; without it an error that shows what to type."""
from _v3 import *
def make(root):
    parts = {"observation.state.arm": (0, 6), "observation.state.gripper": (6, 7), "action.arm": (0, 6), "action.gripper": (6, 7)}
    e = [episode(11), episode(9)]
    def frame(cols, features):
        for key, (a, b) in parts.items():
            values = np.concatenate([x["action" if key.startswith("action") else "state"] for x in e])[:, a:b]
            features[key] = {"dtype": "float32", "shape": [b - a], "names": None}; cols[key] = values[:, 0].tolist() if b - a == 1 else values.tolist()
        del cols["observation.state"], cols["action"], features["observation.state"], features["action"]
    return write(root, e, frame_hook=frame)
