"""A web server of a folder that can be told to fail, and that counts what it sends."""
import http.server
import pathlib
import ssl
import threading
import time


class Fault:
    """What one answer is instead of the file."""

    def __init__(self, cut=None, rate=None, flip=None, status=None, body=None, stall=None,
                 location=None, no_range=False, trim=0, pad=0, shift=0):
        self.cut = cut            # close the connection after so many bytes of the body
        self.rate = rate          # bytes a second
        self.flip = flip          # byte of the file whose lowest bit is turned
        self.status = status      # an error, with a short text
        self.body = body          # a page in place of the file, with status 200
        self.stall = stall        # send half of the body, then nothing for so many seconds
        self.location = location  # redirect
        self.no_range = no_range  # the whole file, whatever was asked for
        self.trim = trim          # the file is so many bytes shorter
        self.pad = pad            # or longer
        self.shift = shift        # a range begins so many bytes before what was asked for


class Server:
    """`fault(name, number, first)` gives the Fault of request `number` (from 1) of a file, or None."""

    def __init__(self, folder, fault=None, certificate=None):
        self.folder, self.fault = pathlib.Path(folder), fault
        self.requests = []  # (name, first byte, bytes sent)
        self.lock = threading.Lock()
        self.ended = threading.Event()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_GET(self):
                owner.answer(self)

            def log_message(self, *_):
                pass

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # clients that leave are what the tests are about
                pass

        self.http = Listener(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self.http.server_port}/set"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05},
                         daemon=True).start()

    def close(self):
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()

    def sent(self, ending=".peal"):
        with self.lock:
            return sum(n for name, _, n in self.requests if name.endswith(ending))

    def count(self, ending=".peal"):
        with self.lock:
            return sum(name.endswith(ending) for name, _, _ in self.requests)

    def resumed(self):
        with self.lock:
            return [first for _, first, _ in self.requests if first > 0]

    def note(self, name, first):
        with self.lock:
            number = 1 + sum(other == name for other, _, _ in self.requests)
            self.requests.append([name, first, 0])
            return number, self.requests[-1]

    def answer(self, handler):
        name = handler.path.removeprefix("/set/")
        asked = handler.headers.get("Range", "")
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        number, entry = self.note(name, first)
        fault = (self.fault and self.fault(name, number, first)) or Fault()
        if fault.location:
            return self.short(handler, 302, b"", ("Location", fault.location))
        if fault.status:
            return self.short(handler, fault.status, b"the server is not well")
        if fault.body is not None:
            return self.short(handler, 200, fault.body, ("Content-Type", "text/html"))
        path = self.folder / name
        if not path.is_file():
            return self.short(handler, 404, b"no such file")
        data = bytearray(path.read_bytes())
        if fault.flip is not None and name.endswith(".peal"):
            data[fault.flip] ^= 1
        data = bytes(data[:len(data) - fault.trim]) + b"x" * fault.pad
        total = len(data)
        if first >= total:
            return self.short(handler, 416, b"", ("Content-Range", f"bytes */{total}"))
        partial = first > 0 and not fault.no_range
        first = max(0, first - fault.shift)
        data = data[first:] if partial else data
        handler.send_response(206 if partial else 200)
        if partial:
            handler.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        return self.send(handler, data, fault, entry)

    def short(self, handler, status, body, *headers):
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def send(self, handler, data, fault, entry):
        end = len(data) if fault.cut is None else min(fault.cut, len(data))
        piece = 16384 if fault.rate is None else max(1, fault.rate // 20)
        for at in range(0, end, piece):
            if fault.stall and at >= len(data) // 2:
                self.ended.wait(fault.stall)
                break
            block = data[at:min(at + piece, end)]
            handler.wfile.write(block)
            with self.lock:
                entry[2] += len(block)
            if fault.rate is not None:
                time.sleep(len(block) / fault.rate)
        if end < len(data) or fault.stall:
            handler.wfile.flush()
            handler.close_connection = True
