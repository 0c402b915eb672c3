"""A small ROS 2 bag in MCAP, as rosbag2 lays it out (own code)."""
from _formats import *
from mcap_ros2.writer import Writer
from mcap.writer import CompressionType
SEP = "=" * 80 + "\n"
HEADER = "std_msgs/Header header\n"
DEFS = SEP + "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n" + SEP + "MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
IMAGE = HEADER + "uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data\n" + DEFS
COMPRESSED = HEADER + "string format\nuint8[] data\n" + DEFS
JOINTS = HEADER + "string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n" + DEFS
ARRAY = "MultiArrayLayout layout\nfloat64[] data\n" + SEP + "MSG: std_msgs/MultiArrayLayout\nMultiArrayDimension[] dim\nuint32 data_offset\n" + SEP + "MSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride\n"
STRING = "string data\n"
TWIST = HEADER + "Twist twist\n" + DEFS + SEP + "MSG: geometry_msgs/Twist\nVector3 linear\nVector3 angular\n" + SEP + "MSG: geometry_msgs/Vector3\nfloat64 x\nfloat64 y\nfloat64 z\n"
T0 = 1_700_000_000_000_000_000
def hdr(t): return {"stamp": {"sec": t // 10**9, "nanosec": t % 10**9}, "frame_id": ""}
def raw(a, encoding, t, step=None):
    return {"header": hdr(t), "height": a.shape[0], "width": a.shape[1], "encoding": encoding, "is_bigendian": 0, "step": step or a.strides[0], "data": a.tobytes()}
def bag(path, seconds=2.0, compression=CompressionType.ZSTD, chunk=1 << 20, camera="raw", sentence="pick up the cube", t0=T0, body=None, camera_hz=10, action_hz=10, joint_hz=50, joints=None, first=0, image_delay_ns=0, sentence_each=False, names=None):
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as f:
        w = Writer(f, chunk_size=chunk, compression=compression)
        S = {k: w.register_msgdef(n, d) for k, (n, d) in {"image": ("sensor_msgs/msg/Image", IMAGE), "compressed": ("sensor_msgs/msg/CompressedImage", COMPRESSED), "joints": ("sensor_msgs/msg/JointState", JOINTS), "array": ("std_msgs/msg/Float64MultiArray", ARRAY), "string": ("std_msgs/msg/String", STRING)}.items()}
        ev = []
        if sentence is not None: ev.append((t0, "/task", "string", {"data": sentence}))
        for j in range(int(seconds * camera_hz) + 1):
            t = t0 + round(j * 1e9 / camera_hz); p = picture(first + j)
            m = ("image", raw(p, "rgb8", t)) if camera == "raw" else ("compressed", {"header": hdr(t), "format": "jpeg", "data": jpeg(p)})
            ev.append((t + image_delay_ns, "/camera/front/image_raw" + ("" if camera == "raw" else "/compressed"), *m))
        for j in range(int(seconds * joint_hz) + 1):
            t = t0 + round(j * 1e9 / joint_hz)
            if joints: ev += joints(j, t)
            else: ev.append((t, "/joint_states", "joints", {"header": hdr(t), "name": ["a", "b", "c"], "position": [j / joint_hz, .2, .3], "velocity": [0.] * 3, "effort": []}))
        for j in range(int(seconds * action_hz) + 1):
            t = t0 + round(j * 1e9 / action_hz)
            ev.append((t, "/command", "array", {"layout": {"dim": [], "data_offset": 0}, "data": [j / action_hz, .5, .6, 1.]}))
        if body: body(ev, S, w)
        for t, topic, kind, m in sorted(ev, key=lambda e: e[0]): w.write_message(topic, S[kind], m, log_time=t, publish_time=t)
        w.finish()
    return path
def metadata(folder, names):
    (Path(folder) / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  version: 9\n  storage_identifier: mcap\n  relative_file_paths:\n" + "".join(f"    - {n}\n" for n in names))
