"""c1m's server, and servers of others, as the scripts of this folder start them."""
import contextlib, json, random, socket, subprocess, sys, tempfile, time

PROGRAM = sys.argv[1]
PATIENCE = 120.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def line(length):
    """So many bytes, the last of which ends a line. None of the letters is a command of openssl."""
    return random.randbytes(length).hex().encode()[: length - 1] + b"\n"


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def listening(port, *words, folder=None):
    """A server of others that listens on a port; it is ended at the end of the block."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
        try:
            until = time.monotonic() + PATIENCE
            while not is_open(port):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise RuntimeError(f"{words[0]} does not listen: {log.read().decode()}")
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait()


class Server:
    """A server of one port, with TLS if it is secured; its document once it has ended."""

    def __init__(self, *words, secured=None):
        self.port, self.secured, self.document = free_port(), secured, None
        self.words = [PROGRAM, "server", "--bind", "127.0.0.1", "--port", str(self.port), "--ports", "1"]
        self.words += ["--port-sharing", "all", "--until-stdin-closes", "--json", "-", *words]
        self.words += secured.words() if secured else []

    def url(self, scheme):
        """Where it is, by `ws` or `http`, or the same over TLS."""
        return f"{scheme}{'s' if self.secured else ''}://localhost:{self.port}"

    def context(self):
        """The TLS of a client in Python, if it speaks TLS."""
        return self.secured.client() if self.secured else None

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert any(json.loads(line).get("event") == "ready" for line in self.process.stdout), "the server did not start"
        return self

    def __exit__(self, failed, *_):
        self.process.stdin.close()
        last = [json.loads(line) for line in self.process.stdout][-1]
        assert self.process.wait(PATIENCE) == 0
        self.document = last
        # No client stays behind, and none was refused.
        assert failed or last["refused"] == 0, last
