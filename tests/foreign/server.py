"""c1m's server, as the scripts of this folder start it."""
import json, random, socket, subprocess, sys

PROGRAM = sys.argv[1]
PATIENCE = 120.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def line(length):
    """So many bytes, the last of which ends a line. None of the letters is a command of openssl."""
    return random.randbytes(length).hex().encode()[: length - 1] + b"\n"


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
