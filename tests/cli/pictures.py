"""Fashion-MNIST and the like as PNG files, folders by class and tar files."""
import gzip
import io
import pathlib
import struct
import tarfile
import zlib


def read_idx(path):
    """(dimensions, bytes) of a gzip IDX file of bytes."""
    raw = gzip.decompress(pathlib.Path(path).read_bytes())
    rank = raw[3]
    dims = struct.unpack(f">{rank}I", raw[4:4 + 4 * rank])
    return dims, raw[4 + 4 * rank:]


def write_idx(path, dims, body):
    path.write_bytes(bytes([0, 0, 8, len(dims)]) + struct.pack(f">{len(dims)}I", *dims) + body)


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(height, width, pixels):
    """A grey picture of 8 bits as a PNG file."""
    rows = b"".join(b"\0" + pixels[y * width:(y + 1) * width] for y in range(height))
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + _chunk(b"IDAT", zlib.compress(rows, 6)) + _chunk(b"IEND", b""))


class Pictures:
    """The first pictures of an IDX pair, and their labels."""

    def __init__(self, images, labels, limit):
        (count, self.height, self.width), body = read_idx(images)
        self.count = min(limit, count)
        size = self.height * self.width
        self.pixels = [body[i * size:(i + 1) * size] for i in range(self.count)]
        self.labels = read_idx(labels)[1][:self.count]

    def by_class(self):
        """Numbers of the pictures in the order in which a folder by class has them."""
        return sorted(range(self.count), key=lambda i: (self.labels[i], i))

    def write_folder(self, folder):
        for label in sorted(set(self.labels)):
            (folder / str(label)).mkdir(parents=True)
        for i in range(self.count):
            path = folder / str(self.labels[i]) / f"{i:05d}.png"
            path.write_bytes(png(self.height, self.width, self.pixels[i]))

    def write_idx(self, folder, order):
        folder.mkdir(exist_ok=True)
        write_idx(folder / "images", (len(order), self.height, self.width),
                  b"".join(self.pixels[i] for i in order))
        write_idx(folder / "labels", (len(order),), bytes(self.labels[i] for i in order))

    def write_tar(self, path, order, mode="w"):
        with tarfile.open(path, mode) as tar:
            for i in order:
                for ending, body in (("png", png(self.height, self.width, self.pixels[i])),
                                     ("cls", str(self.labels[i]).encode())):
                    info = tarfile.TarInfo(f"{i:06d}.{ending}")
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
