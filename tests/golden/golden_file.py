"""The format of the golden files: a line "name dtype dim dim ..." and then the raw little-endian
elements, tensor after tensor. tests/golden/golden_file.h reads it."""

import numpy


class GoldenFile:
    def __init__(self, path):
        self.file = open(path, "wb")

    def write(self, name, tensor):
        """tensor: a torch tensor; integers are stored as i32, all else as f32."""
        array = tensor.detach().numpy()
        integer = array.dtype.kind == "i"
        array = numpy.ascontiguousarray(array.astype("<i4" if integer else "<f4"))
        dims = "".join(f" {dim}" for dim in array.shape)
        self.file.write(f"{name} {'i32' if integer else 'f32'}{dims}\n".encode())
        self.file.write(array.tobytes())

    def close(self):
        self.file.close()
