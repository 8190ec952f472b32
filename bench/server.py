"""llama-server for the measurements of this folder: started without or with the shim, asked, ended."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / ".deps/llama.cpp/bin"
LIB = ROOT / "target/release/libzen5turbo.so"
# The arms of a comparison: both layouts of stock, and the shim.
STOCK, PLAIN, SHIM = "stock", "stock --no-repack", "shim"
ARMS = (STOCK, PLAIN, SHIM)
START_LIMIT = 120  # seconds from the start of the program to the first healthy answer
ANSWER_LIMIT = 600


def options(parser):
    """The arguments, with those that every bench of a server has."""
    parser.add_argument("--bin", type=pathlib.Path, default=BIN)
    parser.add_argument("--lib", type=pathlib.Path, default=LIB)
    parser.add_argument("--version", default="?", help="of the shim, for the record")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/records")
    found = parser.parse_args()
    found.kernels = None
    return found


class Failed(Exception):
    """The server did not start, or did not answer as it should."""


class Server:
    """A running llama-server. Its log is kept, and is part of the error when something fails."""

    def __init__(self, arm, words, program=BIN / "llama-server", library=LIB):
        self.log = tempfile.TemporaryFile()
        self.statistics = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD" and not name.startswith("ZEN5TURBO")}
        if arm == SHIM:
            self.statistics = tempfile.NamedTemporaryFile(suffix=".json")
            environment |= {"LD_PRELOAD": str(library), "ZEN5TURBO_GATE": "off", "ZEN5TURBO_TUNE": "off", "ZEN5TURBO_STATS": self.statistics.name}
        command = [program, "--host", "127.0.0.1", "--port", self.port, *words]
        if arm == PLAIN:
            command.append("--no-repack")
        self.process = subprocess.Popen(
            list(map(os.fspath, map(str, command))), env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def __enter__(self):
        end = time.monotonic() + START_LIMIT
        while True:
            try:
                self.ask("/health", limit=5)
                return self
            except (OSError, Failed):
                if self.process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise Failed(f"llama-server did not start: {self.tail()}")
                time.sleep(0.02)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def taken(self, operation):
        """With the shim, after the end: how many operations of a kind it has taken over."""
        counted = json.loads(pathlib.Path(self.statistics.name).read_text())
        return sum(of_type["taken"] for of_type in counted["ops"].get(operation, {}).values())

    def tail(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-1500:]

    def open(self, path, body=None, limit=ANSWER_LIMIT):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=limit)
        except urllib.error.HTTPError as error:
            raise Failed(f"{path}: {error.code} {error.read()[:500].decode(errors='replace')}") from error

    def ask(self, path, body=None, limit=ANSWER_LIMIT):
        with self.open(path, body, limit) as reply:
            return json.load(reply)

    def stream(self, body):
        """The events of a completion, each as soon as it is there."""
        with self.open("/completion", body | {"stream": True}) as reply:
            for line in reply:
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise Failed(f"/completion: {event['error']}")
                    yield event
