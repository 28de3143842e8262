"""The files of zennas/mask/assets/ made again from the npm package @mediapipe/face_mesh 0.4.1657299874 (Apache-2.0).

    npm pack @mediapipe/face_mesh@0.4.1657299874 && tar xf mediapipe-face_mesh-0.4.1657299874.tgz
    python experiments/masks/make_assets.py --package package --out zennas/mask/assets

Needs tf2onnx and tensorflow-cpu (best in an environment of their own; zennas needs neither) beside onnx and
onnxruntime. The networks' weights are half precision in the package, too: they are kept so and cast when the network is
loaded, which loses nothing, and the script checks that the files answer as the originals do.

V = 468 vertices, T = 898 triangles
"""

import argparse
import json
import pathlib
import re
import struct
import tempfile

import numpy as np
import onnx
import onnxruntime
import tensorflow
import tf2onnx
from onnx import TensorProto, helper, numpy_helper

PACKED, LOADER = "face_mesh_solution_packed_assets.data", "face_mesh_solution_packed_assets_loader.js"
NETWORKS = {"face_landmark.tflite": "face_landmark.onnx", "face_detection_short_range.tflite": "face_detection.onnx"}
GEOMETRY = "geometry_pipeline_metadata_landmarks.binarypb"
OPSET = 13
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # the wire types of protobuf
MAX_DIFFERENCE = 1e-4  # of the largest answer; measured 1e-6: sums in another order


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=pathlib.Path, required=True, help="the unpacked npm package")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    files = unpacked(arguments.package)
    for name, onnx_name in NETWORKS.items():
        network = in_half(converted(files[name]))
        difference = difference_to_tflite(network.SerializeToString(), files[name])
        if difference > MAX_DIFFERENCE:
            raise SystemExit(f"{name}: the ONNX file answers differently, by {difference:.1e} of the largest answer")
        onnx.save(network, arguments.out / onnx_name)
        print(f"{onnx_name}: {network.ByteSize():,} bytes, differs by {difference:.1e} of the largest answer")
    vertex_V5, triangle_T3 = canonical_mesh(files[GEOMETRY])
    np.savez_compressed(
        arguments.out / "face_mesh.npz",
        position_V3=vertex_V5[:, :3].astype(np.float32),
        uv_V2=vertex_V5[:, 3:].astype(np.float32),
        triangle_T3=triangle_T3.astype(np.int32),
    )
    print(f"face_mesh.npz: {len(vertex_V5)} vertices, {len(triangle_T3)} triangles")


def unpacked(package):
    """{file name: bytes} of the packed assets."""
    listed = re.search(r'"files": *(\[[^\]]*\])', (package / LOADER).read_text(encoding="utf-8"))[1]
    data = (package / PACKED).read_bytes()
    return {entry["filename"].rpartition("/")[2]: data[entry["start"] : entry["end"]] for entry in json.loads(listed)}


def converted(tflite):
    """The ONNX model of a TFLite file's bytes."""
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(tflite)
        file.flush()
        return tf2onnx.convert.from_tflite(file.name, opset=OPSET)[0]


def in_half(network):
    """The model with its float32 weights kept as float16 and cast back where they are used."""
    graph, casts = network.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        name, value = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f"{name}:half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    network.producer_name, network.doc_string = "zennas", "of @mediapipe/face_mesh, Apache-2.0; see NOTICE"
    onnx.checker.check_model(network, full_check=True)
    return network


def difference_to_tflite(onnx_bytes, tflite):
    """The largest difference of the two files' answers to the same noise, as a share of the largest answer."""
    interpreter = tensorflow.lite.Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    (taken,) = interpreter.get_input_details()
    image = np.random.default_rng(0).random(taken["shape"], np.float32)
    interpreter.set_tensor(taken["index"], image)
    interpreter.invoke()
    expected = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    given = session.run(None, {session.get_inputs()[0].name: image})
    expected, given = (sorted(answers, key=np.size) for answers in (expected, given))
    return max(float(abs(a - b).max() / abs(a).max()) for a, b in zip(expected, given, strict=True))


def canonical_mesh(binary):
    """(vertex_V5: x, y, z in centimetres, u, v; triangle_T3) of a GeometryPipelineMetadata, whose field 1 is a Mesh3d:
    its field 3 is the list of vertices, its field 4 the list of indices."""
    mesh = next(value for number, value in fields(binary) if number == 1)
    floats, indices = [], []
    for number, value in fields(mesh):
        if number == 3:
            floats += struct.unpack(f"<{len(value) // 4}f", value) if isinstance(value, bytes) else [value]
        elif number == 4:
            indices += list(varints(value)) if isinstance(value, bytes) else [value]
    return np.array(floats).reshape(-1, 5), np.array(indices).reshape(-1, 3)


def fields(binary):
    """(field number, value) of a protobuf message: an int, a float or bytes."""
    at = 0
    while at < len(binary):
        key, at = varint(binary, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = varint(binary, at)
        elif wire == BYTES:
            length, at = varint(binary, at)
            value, at = binary[at : at + length], at + length
        elif wire == FIXED_32:
            value, at = struct.unpack_from("<f", binary, at)[0], at + 4
        elif wire == FIXED_64:
            value, at = struct.unpack_from("<d", binary, at)[0], at + 8
        else:
            raise SystemExit(f"{GEOMETRY}: wire type {wire} at byte {at}")
        yield number, value


def varint(binary, at):
    value = shift = 0
    while True:
        value |= (binary[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if binary[at - 1] < 128:
            return value, at


def varints(binary):
    at = 0
    while at < len(binary):
        value, at = varint(binary, at)
        yield value


if __name__ == "__main__":
    main()
