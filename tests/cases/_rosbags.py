"""A small recording as rosbag2 lays it out, written by the package rosbags: SQLite or MCAP, plain or compressed (own code)."""
from _ros import *
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Writer as BagWriter
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore
LATCHED = Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False)
TYPES = {"/task": "std_msgs/msg/String", "/camera/front/image_raw": "sensor_msgs/msg/Image", "/joint_states": "sensor_msgs/msg/JointState", "/command": "std_msgs/msg/Float64MultiArray"}
def recording(folder, storage="SQLITE3", compression="NONE", rows=21, task_at=0, version=9, defined=True):
    """`task_at` is when /task, which is latched, is logged, in seconds after the first row. `defined` False drops the definitions."""
    store = get_typestore(Stores.ROS2_HUMBLE); T = store.types
    stamp = lambda t: T["std_msgs/msg/Header"](T["builtin_interfaces/msg/Time"](t // 10**9, t % 10**9), "")
    w = BagWriter(folder, version=version, storage_plugin=StoragePlugin[storage])
    if compression != "NONE": w.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    w.open()
    C = {k: w.add_connection(k, v, typestore=store, offered_qos_profiles=[LATCHED] if k == "/task" else []) for k, v in TYPES.items()}
    def say(topic, t, m): w.write(C[topic], t, store.serialize_cdr(m, TYPES[topic]))
    say("/task", T0 + round(task_at * 1e9), T["std_msgs/msg/String"]("pick up the cube"))
    for j in range(rows):
        t = T0 + j * 10**8; p = picture(j)
        say("/camera/front/image_raw", t, T["sensor_msgs/msg/Image"](stamp(t), 64, 96, "rgb8", 0, 96 * 3, p.reshape(-1)))
        say("/joint_states", t, T["sensor_msgs/msg/JointState"](stamp(t), ["a", "b"], np.array([j / 10, .2]), np.array([1., 2.]), np.array([])))
        say("/command", t, T["std_msgs/msg/Float64MultiArray"](T["std_msgs/msg/MultiArrayLayout"]([], 0), np.array([j / 10, .5])))
    w.close()
    if not defined:
        import sqlite3
        with sqlite3.connect(next(Path(folder).glob("*.db3"))) as c:
            for q in ("DROP TABLE message_definitions", "DROP TABLE schema", "DROP TABLE metadata", "ALTER TABLE topics DROP COLUMN type_description_hash"): c.execute(q)
    return folder
