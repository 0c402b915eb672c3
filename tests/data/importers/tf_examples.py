"""RLDS shards written with protobuf's own messages, described here apart from the decoder."""

import json
import struct

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def messages():
    """``Example`` and ``SequenceExample`` as tensorflow/core/example/*.proto define them."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        found = file.message_type.add(name=name)
        for number, (label, kind, repeated) in enumerate(fields, 1):
            typed = {"type": kind} if isinstance(kind, int) else {"type": kinds.TYPE_MESSAGE, "type_name": f".tf.{kind}"}
            where = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            found.field.add(name=label, number=number, label=where, **typed)
        return found

    def mapped(name, value):
        outer = message(name, ("feature" if name == "Features" else "feature_list", f"{name}.Entry", True))
        entry = outer.nested_type.add(name="Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
        entry.field.add(name="value", number=2, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_MESSAGE, type_name=f".tf.{value}")

    message("BytesList", ("value", kinds.TYPE_BYTES, True))
    message("FloatList", ("value", kinds.TYPE_FLOAT, True))
    message("Int64List", ("value", kinds.TYPE_INT64, True))
    feature = message(
        "Feature", ("bytes_list", "BytesList", False), ("float_list", "FloatList", False), ("int64_list", "Int64List", False)
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    mapped("Features", "Feature")
    message("FeatureList", ("feature", "Feature", True))
    mapped("FeatureLists", "FeatureList")
    message("Example", ("features", "Features", False))
    message("SequenceExample", ("context", "Features", False), ("feature_lists", "FeatureLists", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tf.{name}")) for name in ("Example", "SequenceExample")
    }


MESSAGES = messages()


def fill(feature, value):
    if isinstance(value, list):
        feature.bytes_list.value.extend(value)
    elif np.asarray(value).dtype.kind == "f":
        feature.float_list.value.extend(np.asarray(value, np.float32).ravel().tolist())
    else:
        feature.int64_list.value.extend(np.asarray(value).ravel().astype(int).tolist())


def example(**values):
    found = MESSAGES["Example"]()
    for key, value in values.items():
        fill(found.features.feature[key], value)
    return found.SerializeToString()


def framed(content):
    def mask(part):
        crc = google_crc32c.value(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)

    head = struct.pack("<Q", len(content))
    return head + mask(head) + content + mask(content)


def tensor(shape, dtype="float32", encoding="none"):
    sizes = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {"tensor": {"shape": sizes, "dtype": dtype, "encoding": encoding}}


def picture(height=24, width=32):
    return {"image": {"shape": {"dimensions": [str(height), str(width), "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"}}


def described(steps, metadata=None):
    """``features.json`` for flat step fields."""

    def nest(flat):
        tree = {}
        for name, value in flat.items():
            inner = tree
            *outer, last = name.split("/")
            for word in outer:
                inner = inner.setdefault(word, {"featuresDict": {"features": {}}})["featuresDict"]["features"]
            inner[last] = value
        return {"featuresDict": {"features": tree}}

    whole = {"steps": {"sequence": {"feature": nest(steps)}}}
    if metadata:
        whole["episode_metadata"] = nest(metadata)
    return {"featuresDict": {"features": whole}}


def save(folder, name, shards, features=None, split="train", counts=None):
    folder.mkdir(parents=True, exist_ok=True)
    lengths = [str(len(shard)) for shard in shards] if counts is None else counts
    info = {"name": name, "version": "1.0.0", "splits": [{"name": split, "shardLengths": lengths}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    if features is not None:
        (folder / "features.json").write_text(json.dumps(features))
    for number, shard in enumerate(shards):
        path = folder / f"{name}-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
        path.write_bytes(b"".join(map(framed, shard)))
    return folder
