"""OpenSSL and Python's ssl as peers of c1m that speak TLS 1.2 alone. `tests/foreign/tls` starts it."""
import json, random, signal, socket, ssl, subprocess, sys, tempfile, threading, time

import checks
from secured import echoing
from server import PROGRAM, free_port, line

PATIENCE = 30
CIPHERS = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]
LENGTHS = [1, 64, 4_068, 16_383, 16_384, 16_385, 100_000]


def certificate(folder, kind):
    cert, key = f"{folder}/{kind}.pem", f"{folder}/{kind}.key"
    how = "-newkey ec -pkeyopt ec_paramgen_curve:P-256" if kind == "ECDSA" else "-newkey rsa:2048"
    words = f"openssl req -x509 {how} -nodes -days 2 -subj /CN=localhost -keyout {key} -out {cert}"
    words += " -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    subprocess.run(words.split(), check=True, capture_output=True)
    return cert, key


def until_it_listens(port, process):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, f"it ended with {process.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("nobody listens")


# Foreign clients of c1m's server.


def s_client(port, cert, *more, said=b"", awaits=True, code=0):
    """What openssl writes to its output and its errors, if it says this. It ends its input when all is back, or when it
    ends by itself."""
    words = f"openssl s_client -tls1_2 -connect 127.0.0.1:{port} -servername localhost -CAfile {cert} -verify_return_error"
    process = subprocess.Popen([*words.split(), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stop = threading.Timer(PATIENCE, process.kill)
    stop.start()
    errors = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    writer = threading.Thread(target=lambda: (process.stdin.write(said), process.stdin.flush()))
    writer.start()
    out = b""
    while not (said and awaits and said in out) and (some := process.stdout.read1(1 << 20)):
        out += some
    writer.join()
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass
    out += process.stdout.read()
    reader.join()
    stop.cancel()
    assert process.wait() == code, f"code {process.returncode}: {errors[0][-300:].decode()}"
    return out, errors[0]


def talks(port, cert, cipher, *more):
    for length in LENGTHS:
        s_client(port, cert, "-quiet", "-no_ign_eof", "-cipher", cipher, *more, said=line(length))


def resumes(port, cert, folder):
    for words, kind in [("-sess_out", b"New, TLSv1.2"), ("-sess_in", b"Reused, TLSv1.2")]:
        out, _ = s_client(port, cert, words, f"{folder}/session", said=b"x\n" * 3)
        assert kind in out, f"no {kind} in {out[-800:].decode()}"


def renegotiates(port, cert):
    """OpenSSL does not go on without the handshake that it asked for."""
    _, errors = s_client(port, cert, "-no_ign_eof", said=b"R\n", awaits=False, code=1)
    assert b"no renegotiation" in errors, errors[-300:]


def without_a_suite(port, cert):
    _, errors = s_client(port, cert, "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA", code=1)
    assert b"handshake failure" in errors, errors[-300:]


def python_clients(port, cert):
    context = ssl.create_default_context(cafile=cert)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for _ in range(30):
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), PATIENCE), server_hostname="localhost") as to:
            assert to.version() == "TLSv1.2"
            data = line(random.choice(LENGTHS[:-1]))
            to.sendall(data)
            back = b""
            while len(back) < len(data):
                some = to.recv(65_536)
                assert some, "the server closed it"
                back += some
            assert back == data, "other bytes"
            # Sends close_notify, and awaits the server's.
            to.unwrap()


def server_checks(folder):
    for kind in ["ECDSA", "RSA"]:
        cert, key = certificate(folder, kind)
        port = free_port()
        words = f"{PROGRAM} server --bind 127.0.0.1 --port {port} --ports 1 --cores 1 --max-connections 1000 --quiet --json -"
        words += f" --tls-min 1.2 --tls-cert {cert} --tls-key {key}"
        server = subprocess.Popen(words.split(), stdout=subprocess.PIPE, text=True)
        until_it_listens(port, server)
        for cipher in CIPHERS:
            yield f"openssl s_client, {kind}, {cipher}", lambda: talks(port, cert, f"ECDHE-{kind}-{cipher}")
        short = ["-max_send_frag", "600"]
        yield f"openssl s_client, {kind}, short records", lambda: talks(port, cert, f"ECDHE-{kind}-{CIPHERS[0]}", *short)
        yield f"openssl s_client, {kind}, resumption", lambda: resumes(port, cert, folder)
        yield f"openssl s_client, {kind}, renegotiation", lambda: renegotiates(port, cert)
        yield f"openssl s_client, {kind}, without a suite", lambda: without_a_suite(port, cert)
        yield f"Python's ssl, {kind}", lambda: python_clients(port, cert)
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=PATIENCE)
        counted = json.loads([text for text in out.splitlines() if '"tls"' in text][-1])["tls"]

        def counts():
            assert server.returncode == 0 and counted["handshakes_tls12"] > 50, counted
            assert counted["handshakes_tls12"] == counted["handshakes_full"] + counted["handshakes_resumed"], counted

        yield f"the server's own count, {kind}", counts


# Foreign servers of c1m's client.


def python_server(cert, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return echoing(context)


def client(port, cert, connections, *more):
    words = f"{PROGRAM} client --target-ip 127.0.0.1 --port {port} --ports 1 --connections {connections} --cores 1"
    words += f" --hold 1s --interval 200ms --quiet --json - --tls --tls-min 1.2 --ca {cert}"
    run = subprocess.run([*words.split(), *more], capture_output=True, text=True, timeout=4 * PATIENCE)
    documents = [json.loads(text) for text in run.stdout.splitlines() if text.startswith("{")]
    assert run.returncode == 0 and documents, run.stderr[-500:]
    assert documents[-1]["live"] == connections and documents[-1]["failed"] == 0, documents[-1]


def client_checks(folder):
    for kind in ["ECDSA", "RSA"]:
        cert, key = certificate(folder, kind)
        yield f"client of Python's ssl, {kind}", lambda: client(python_server(cert, key), cert, 40, "--payload", "20000")
        for cipher in CIPHERS:
            port = free_port()
            words = f"openssl s_server -quiet -rev -tls1_2 -accept 127.0.0.1:{port} -cert {cert} -key {key}"
            words += f" -cipher ECDHE-{kind}-{cipher}"
            server = subprocess.Popen(words.split(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until_it_listens(port, server)
            # It answers with each line turned round, on one connection at a time.
            said = ["--protocol", "send-expect", "--send", "abc\\n", "--expect", "cba\\n"]
            yield f"client of openssl s_server, {kind}, {cipher}", lambda: client(port, cert, 1, *said)
            server.kill()
            server.wait()


def main():
    with tempfile.TemporaryDirectory() as folder:
        parts = {"server": [server_checks], "client": [client_checks]}.get(sys.argv[2], [server_checks, client_checks])
        checks.run("TLS 1.2: ", (pair for part in parts for pair in part(folder)))


main()
