"""TLS for the scripts of this folder: an authority with a server's certificate, and a relay between plain and TLS."""
import asyncio, contextlib, os, socket, ssl, subprocess, threading


class Secured:
    """An authority, a certificate of it for localhost and 127.0.0.1, and its key, as files in a folder."""

    def __init__(self, folder):
        self.ca, self.cert, self.key = (os.path.join(folder, name) for name in ("ca.pem", "cert.pem", "key.pem"))
        ca_key = os.path.join(folder, "ca.key")
        self._make(self.ca, ca_key, "/CN=c1m's tests", "basicConstraints=critical,CA:TRUE")
        names = ["subjectAltName=DNS:localhost,IP:127.0.0.1", "basicConstraints=critical,CA:FALSE"]
        self._make(self.cert, self.key, "/CN=localhost", *names, signed_by=["-CA", self.ca, "-CAkey", ca_key])

    @staticmethod
    def _make(cert, key, subject, *extensions, signed_by=()):
        words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split()
        words += ["-subj", subject, "-out", cert, "-keyout", key, *signed_by]
        words += [word for extension in extensions for word in ("-addext", extension)]
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)

    def words(self):
        """What makes c1m's server speak TLS."""
        return ["--tls-cert", self.cert, "--tls-key", self.key]

    def client(self):
        """The context of a client that trusts the authority alone."""
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def server(self):
        """The context of a server with the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context


def accepting(answer):
    """A port at which a thread answers each connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def echoing(context):
    """A port at which a server of this context sends back what it is sent."""

    def answer(connection):
        try:
            with context.wrap_socket(connection, server_side=True) as to:
                while data := to.recv(65_536):
                    to.sendall(data)
        except OSError:
            pass

    return accepting(answer)


@contextlib.contextmanager
def relay(to, accepting=None, connecting=None):
    """A port whose connections go on to the port `to`. A context makes its end of the relay speak TLS."""
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def pump(reader, writer):
        # An end without close_notify, or by RST, ends the other side too.
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        name = "localhost" if connecting else None
        try:
            onward = await asyncio.open_connection("127.0.0.1", to, ssl=connecting, server_hostname=name)
        except OSError:
            return writer.close()
        await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))

    async def run():
        nonlocal port, over
        over = asyncio.Event()
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=accepting, backlog=1_000) as server:
            port = server.sockets[0].getsockname()[1]
            ready.set()
            await over.wait()

    port = over = None
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    ready.wait()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
