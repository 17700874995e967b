"""Foreign TLS implementations as peers of c1m. `tests/foreign/tls` starts it.

Each check is one connection or a few: all three suites, records of all lengths, KeyUpdates from either end, padding,
empty records, tickets and resumption, orderly ends, and faults, which must be answered by the right alert. Every byte is
compared.
"""
import asyncio, json, os, random, select, signal, socket, subprocess, sys, tempfile, threading, time

from tlslite.api import HandshakeSettings, TLSConnection, TLSRemoteAlert, X509, X509CertChain, parsePEMKey
from tlslite.constants import AlertDescription, ContentType, KeyUpdateMessageType
from tlslite.messages import Message

import checks
from secured import Secured, accepting, echoing
from server import PROGRAM, free_port, line

PART = sys.argv[2]
PATIENCE = 30.0
SUITES = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
GNUTLS = dict(zip(SUITES, ["AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"]))
TLSLITE = dict(zip(SUITES, ["aes128gcm", "aes256gcm", "chacha20-poly1305"]))
LENGTHS = [1, 64, 1_000, 16_383, 16_384, 16_385, 100_000]


def eventually(what, is_so):
    until = time.monotonic() + PATIENCE
    while not (value := is_so()):
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.02)
    return value


class Program:
    """A program that is spoken to through its standard input and output."""

    def __init__(self, *words):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def said(self):
        """All that it has written to its standard error."""
        return os.pread(self.errors.fileno(), 1 << 20, 0)

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self, length):
        data, until = b"", time.monotonic() + PATIENCE
        while len(data) < length:
            ready, _, _ = select.select([self.process.stdout], [], [], until - time.monotonic())
            more = os.read(self.process.stdout.fileno(), length - len(data)) if ready else b""
            if not more:
                raise ConnectionError(f"{len(data)} of {length} bytes came; {self.said()[-300:].decode()}")
            data += more
        return data

    def exchange(self, data, back=None):
        writer = threading.Thread(target=self.write, args=(data,))
        writer.start()
        got = self.read(len(data))
        writer.join()
        assert got == (back or data), f"{len(data)} bytes came back as others"

    def ends(self):
        """Ends its input. It ends in order."""
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0, self.said()[-300:]


# Foreign clients of c1m's server.


def openssl_client(port, secured, suite, *more):
    words = f"openssl s_client -quiet -no_ign_eof -tls1_3 -connect 127.0.0.1:{port} -servername localhost"
    words += f" -CAfile {secured.ca} -verify_return_error -ciphersuites {suite}"
    with Program(*words.split(), *more) as client:
        for number, length in enumerate(LENGTHS):
            client.exchange(line(length))
            # K asks for a KeyUpdate in return, k does not.
            client.write(random.choice([b"K\n", b"k\n"]))
            eventually("openssl's KeyUpdate", lambda: client.said().count(b"KEYUPDATE") > number)
            client.exchange(line(200))
        client.ends()


def gnutls_client(port, secured, suite):
    priority = f"NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+{GNUTLS[suite]}"
    words = f"gnutls-cli --port {port} --x509cafile {secured.ca} --priority {priority} --inline-commands --logfile /dev/null"
    words += " --sni-hostname localhost --verify-hostname localhost 127.0.0.1"
    with Program(*words.split()) as client:
        for length in LENGTHS:
            client.exchange(line(length))
            client.write(random.choice([b"^rekey^\n", b"^rekey1^\n"]))
            client.exchange(line(200))
        client.ends()


def tlslite(port, suite, **settings):
    """A connection of tlslite-ng's."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    to = TLSConnection(plain)
    to.plain = plain
    wanted = HandshakeSettings()
    wanted.minVersion, wanted.cipherNames = (3, 4), [TLSLITE[suite]]
    for name, value in settings.items():
        setattr(wanted, name, value)
    to.handshakeClientCert(settings=wanted, serverName="localhost")
    return to


def through(to, data):
    """What comes back for some bytes sent, as many."""
    sender = threading.Thread(target=to.sendall, args=(data,))
    sender.start()
    back = b""
    while len(back) < len(data):
        more = to.recv(len(data) - len(back))
        if not more:
            raise ConnectionError(f"{len(back)} of {len(data)} bytes came")
        back += bytes(more)
    sender.join()
    return back


def sent(to, kind, content):
    """Sends a record as it is."""
    for _ in to._recordLayer.sendRecord(Message(kind, bytearray(content))):
        pass


def tlslite_client(port, suite):
    to = tlslite(port, suite, padding_cb=lambda _length, _kind, most: min(most, random.randrange(400)))
    for length in LENGTHS[:-1]:
        to.recordSize = random.choice([100, 1_000, 15_000])
        data = line(length)
        assert through(to, data) == data, "other bytes"
        for _ in range(3):
            sent(to, ContentType.application_data, b"")
        kind = random.choice([KeyUpdateMessageType.update_requested, KeyUpdateMessageType.update_not_requested])
        for _ in to.send_keyupdate_request(kind):
            pass
    to.close()


FAULTS = {
    "a record that does not decrypt": (b"\x17\x03\x03\x00\x20" + bytes(32), AlertDescription.bad_record_mac),
    "a record too short": (b"\x17\x03\x03\x00\x03abc", AlertDescription.bad_record_mac),
    "a record too long": (b"\x17\x03\x03\x41\x01", AlertDescription.record_overflow),
    "a plain alert": (b"\x15\x03\x03\x00\x02\x02\x28", AlertDescription.unexpected_message),
    "a ChangeCipherSpec": (b"\x14\x03\x03\x00\x01\x01", AlertDescription.unexpected_message),
    "no TLS": (b"GET / HTTP/1.1\r\n\r\n", AlertDescription.unexpected_message),
    "a ClientHello": ((ContentType.handshake, b"\x01\x00\x00\x00"), AlertDescription.unexpected_message),
    "a ticket": ((ContentType.handshake, b"\x04\x00\x00\x01a"), AlertDescription.unexpected_message),
    "an empty handshake record": ((ContentType.handshake, b""), AlertDescription.unexpected_message),
    "a KeyUpdate that asks for 2": ((ContentType.handshake, b"\x18\x00\x00\x01\x02"), AlertDescription.illegal_parameter),
    "a long KeyUpdate": ((ContentType.handshake, b"\x18\x00\x00\x02\x00\x00"), AlertDescription.decode_error),
    "half an alert": ((ContentType.alert, b"\x01"), AlertDescription.decode_error),
    "a type that is not known": ((99, b"abc"), AlertDescription.unexpected_message),
}


def fault(port, suite, name):
    what, alert = FAULTS[name]
    to = tlslite(port, suite)
    # tlslite-ng closes its own descriptor when an alert comes.
    plain = to.plain.dup()
    assert through(to, b"first\n") == b"first\n", "other bytes"
    if isinstance(what, bytes):
        plain.sendall(what)
    else:
        sent(to, *what)
    try:
        back = to.recv(1)
    except TLSRemoteAlert as remote:
        assert remote.description == alert, f"{remote}, and not {AlertDescription.toStr(alert)}"
        # Nothing but the alert is told, and the connection is closed.
        assert plain.recv(1) == b"", "bytes after the alert"
    else:
        raise AssertionError(f"no alert, but {bytes(back)}")


async def python_talks(port, context):
    """asyncio, as a connection of Python's ssl must not be read by one thread and written by another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    for length in random.sample(LENGTHS, 5):
        data = line(length)
        writer.write(data)
        assert await asyncio.wait_for(reader.readexactly(length), PATIENCE) == data, "other bytes"
    # Sends close_notify and awaits the server's.
    writer.close()
    await writer.wait_closed()


def python_clients(port, secured):
    async def all_of_them():
        context = secured.client()
        await asyncio.gather(*(python_talks(port, context) for _ in range(50)))

    asyncio.run(all_of_them())


def python_connection(port, context, session=None):
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    return context.wrap_socket(plain, server_hostname="localhost", session=session)


def python_resumes(port, secured):
    context = secured.client()
    with python_connection(port, context) as to:
        to.sendall(b"first\n")
        assert to.recv(100) == b"first\n", "other bytes"
        session = to.session
        assert session and session.has_ticket, "no ticket"
    with python_connection(port, context, session) as to:
        to.sendall(b"again\n")
        assert to.recv(100) == b"again\n", "other bytes"
        assert to.session_reused, "the session was not resumed"


def server_checks(secured):
    port = free_port()
    words = f"{PROGRAM} server --bind 127.0.0.1 --port {port} --ports 1 --cores 1 --max-connections 1000 --quiet"
    with Program(*words.split(), *secured.words()) as server:
        eventually("the server listens", lambda: listens(port, server))
        for suite in SUITES:
            yield f"openssl s_client, {suite}", lambda: openssl_client(port, secured, suite)
            padded = ["-record_padding", "512", "-max_send_frag", "600"]
            yield f"openssl s_client, {suite}, padding", lambda: openssl_client(port, secured, suite, *padded)
            yield f"gnutls-cli, {suite}", lambda: gnutls_client(port, secured, suite)
            yield f"tlslite-ng, {suite}", lambda: tlslite_client(port, suite)
        for name in FAULTS:
            for suite in SUITES:
                yield f"{name}, {suite}", lambda: fault(port, suite, name)
        yield "Python's ssl, 50 connections", lambda: python_clients(port, secured)
        yield "Python's ssl, resumption", lambda: python_resumes(port, secured)
        yield "the server is there", lambda: python_clients(port, secured)
        server.process.send_signal(signal.SIGTERM)
        yield "the server ends in order", lambda: server.ends()


def listens(port, server):
    if server.process.poll() is not None:
        raise SystemExit(f"the server ended: {server.said().decode()}")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Foreign servers of c1m's client.


def tlslite_echo(secured, suite):
    """An echo with padding, empty records, short records, and a KeyUpdate, which mostly asks for one, before each answer."""
    chain = X509CertChain([X509().parse(open(secured.cert).read())])
    private = parsePEMKey(open(secured.key).read(), private=True)
    settings = HandshakeSettings()
    settings.minVersion, settings.cipherNames, settings.ticket_count = (3, 4), [TLSLITE[suite]], 3
    settings.ticketKeys = [bytearray(os.urandom(32))]
    settings.padding_cb = lambda _length, _kind, most: min(most, random.randrange(400))

    def answer(connection):
        to = TLSConnection(connection)
        try:
            to.handshakeServer(certChain=chain, privateKey=private, settings=settings)
            to.recordSize = 40
            while data := to.recv(65_536):
                kind = random.choice([KeyUpdateMessageType.update_requested, KeyUpdateMessageType.update_not_requested])
                for _ in to.send_keyupdate_request(kind):
                    pass
                sent(to, ContentType.application_data, b"")
                to.sendall(data)
        except Exception:
            connection.close()

    return accepting(answer)


def client(port, secured, connections=40, *more):
    words = f"{PROGRAM} client --target-ip 127.0.0.1 --port {port} --ports 1 --connections {connections} --cores 1"
    words += f" --hold 2s --interval 200ms --quiet --json - --tls --ca {secured.ca}"
    run = subprocess.run([*words.split(), *more], capture_output=True, text=True, timeout=4 * PATIENCE)
    documents = [json.loads(text) for text in run.stdout.splitlines() if text.startswith("{")]
    assert documents, run.stderr[-500:]
    counts = {name: documents[-1][name] for name in ("requested", "live", "failed", "errors")}
    wanted = {"requested": connections, "live": connections, "failed": 0, "errors": {}}
    assert run.returncode == 0 and counts == wanted, (run.returncode, counts, run.stderr[-500:])


def client_checks(secured):
    yield "client of Python's ssl", lambda: client(echoing(secured.server()), secured)
    cert, key = secured.cert, secured.key
    for suite in SUITES:
        yield f"client of tlslite-ng, {suite}", lambda: client(tlslite_echo(secured, suite), secured, 10)
        port = free_port()
        priority = f"NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+{GNUTLS[suite]}"
        words = f"gnutls-serv --echo --quiet --port {port} --x509certfile {cert} --x509keyfile {key} --priority {priority}"
        with Program(*words.split()) as server:
            eventually("gnutls-serv listens", lambda: listens(port, server))
            # It answers lines alone.
            said = ["--protocol", "send-expect", "--send", "abc {token}\\n", "--expect", "abc {token}\\n"]
            yield f"client of gnutls-serv, {suite}", lambda: client(port, secured, 40, *said)
        port = free_port()
        words = f"openssl s_server -quiet -rev -tls1_3 -accept 127.0.0.1:{port} -cert {cert} -key {key} -num_tickets 4"
        words += f" -ciphersuites {suite} -record_padding 512"
        with Program(*words.split()) as server:
            eventually("openssl s_server listens", lambda: listens(port, server))
            # It answers with each line turned round, on one connection at a time.
            said = ["--protocol", "send-expect", "--send", "abc\\n", "--expect", "cba\\n"]
            yield f"client of openssl s_server, {suite}", lambda: client(port, secured, 1, *said)


def main():
    with tempfile.TemporaryDirectory() as folder:
        secured = Secured(folder)
        parts = {"server": [server_checks], "client": [client_checks]}.get(PART, [server_checks, client_checks])
        checks.run("", (pair for part in parts for pair in part(secured)))


main()
