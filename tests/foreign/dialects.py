"""Foreign servers of WebSocket and HTTP as peers of c1m's client. `tests/foreign/dialects` starts it.

Each check starts a server, runs clients against it, and looks at their results: every connection proved in both audits,
messages answered, keepalives and goodbyes answered, causes of failures named. Each is done over plain bytes and over TLS.
"""
import contextlib, json, os, shutil, subprocess, sys, tempfile

import checks
from secured import relay
from server import PROGRAM, free_port, listening

WANTED = sys.argv[2:]
PATIENCE = 60.0
CONNECTIONS = 200


def url(scheme, port, secured):
    """Where a server is, by `ws` or `http`, or the same over TLS."""
    return f"{scheme}{'s' if secured else ''}://127.0.0.1:{port}"


def trusting(secured):
    """What makes c1m's client trust the server."""
    return ["--ca", secured.ca] if secured else []


def client(target, secured, *words):
    """Runs a client to its end, and returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "json")
        words = [PROGRAM, "client", "--target", target, "--connections", str(CONNECTIONS), "--json", result, *words]
        words += trusting(secured)
        ended = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE * 2)
        assert ended.returncode in (0, 1), (words, ended.stderr)
        with open(result) as file:
            return json.load(file)


def held(run, proof, goodbyes=CONNECTIONS):
    assert run["complete"] and run["live"] == CONNECTIONS and not run["errors"], run["errors"]
    assert [audit["live"] for audit in run["audits"]] == [CONNECTIONS] * 2, run["audits"]
    assert run["proof"] == proof and run["goodbyes"] == goodbyes, (run["proof"], run["goodbyes"])
    assert run["echo_latency_us"]["count"] > CONNECTIONS, run["echo_latency_us"]


TALK = ["--interval", "200ms", "--hold", "2500ms", "--keepalive-interval", "1s"]

# Ends with a port, and with the files of a certificate and its key if TLS is to be spoken.
NODE_SERVER = """
const { readFileSync } = require('fs');
const [port, cert, key] = process.argv.slice(1);
const secrets = cert ? { cert: readFileSync(cert), key: readFileSync(key), minVersion: 'TLSv1.3' } : {};
const server = require(cert ? 'https' : 'http').createServer(secrets).listen(+port, '127.0.0.1');
"""

NODE_WS = NODE_SERVER + """
const { WebSocketServer } = require('ws');
new WebSocketServer({ server, perMessageDeflate: true }).on('connection', socket => {
  socket.on('message', (data, binary) => socket.send(data, { binary }));
  socket.send('welcome');
  const asking = setInterval(() => socket.ping('are you there'), 300);
  socket.on('close', () => clearInterval(asking));
});
"""

NODE_HTTP = NODE_SERVER + """
server.on('request', (request, response) => {
  let body = '';
  request.on('data', piece => body += piece);
  request.on('end', () => { response.write('you said '); response.end(request.url + body); });
});
"""

WEBSOCKETS = """
import asyncio, ssl, sys, websockets
async def echo(socket):
    async for message in socket:
        await socket.send(message)
async def main():
    context = None
    if sys.argv[2:]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[2:])
    async with websockets.serve(echo, '127.0.0.1', int(sys.argv[1]), ping_interval=0.5, ssl=context):
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""

NGINX = """
daemon off; pid nginx.pid; error_log stderr; worker_processes 1; events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests {requests}; keepalive_timeout 75s;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen 127.0.0.1:{port} {tls};
    location /token/ {{ return 200 "$uri\\n"; }}
    location /busy {{ return 503; }}
    location /ws {{
      proxy_pass http://127.0.0.1:{behind}; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(secured, requests=1_000_000, behind=1):
    port, tls = free_port(), ""
    if secured:
        tls = f"ssl; ssl_certificate {secured.cert}; ssl_certificate_key {secured.key}; ssl_protocols TLSv1.3"
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "nginx.conf"), "w") as file:
            file.write(NGINX.format(port=port, tls=tls, requests=requests, behind=behind))
        with listening(port, shutil.which("nginx") or "/usr/sbin/nginx", "-p", folder, "-c", "nginx.conf"):
            yield port


def files(secured):
    return [secured.cert, secured.key] if secured else []


def node_ws(secured):
    port = free_port()
    with listening(port, "node", "-e", NODE_WS, str(port), *files(secured)):
        at = url("ws", port, secured)
        for proof, strength in [("ping", "gateway"), ("echo", "end-to-end")]:
            run = client(f"{at}/", secured, "--proof", proof, *TALK)
            held(run, strength)
            assert run["keepalives"] >= CONNECTIONS, run["keepalives"]
        binary = ["--message-type", "binary", "--payload", "20000"]
        held(client(f"{at}/", secured, "--proof", "echo", *binary, *TALK), "end-to-end")


def python_websockets(secured):
    port = free_port()
    with listening(port, sys.executable, "-c", WEBSOCKETS, str(port), *files(secured)):
        at = url("ws", port, secured)
        held(client(f"{at}/", secured, *TALK), "gateway")
        held(client(f"{at}/", secured, "--proof", "echo", "--payload", "5000", *TALK), "end-to-end")


def nginx_keeps_connections(secured):
    with nginx(secured) as port:
        target = f"http{'s' if secured else ''}://localhost:{port}/token/{{n}}/{{token}}"
        held(client(target, secured, "--source-ip", "127.0.0.1", "--proof", "token", *TALK), "end-to-end", goodbyes=0)
        run = client(f"{url('http', port, secured)}/busy", secured)
        assert run["errors"] == {"http_503": CONNECTIONS}, run["errors"]
    with nginx(secured, requests=2) as port:
        run = client(f"{url('http', port, secured)}/token/a", secured, "--interval", "100ms", "--hold", "1s")
        assert run["errors"] == {"not_kept": CONNECTIONS}, run["errors"]


def nginx_before_websocket(secured):
    """Through a proxy to c1m's own server; and where nothing is behind it."""
    port = free_port()
    with listening(port, PROGRAM, "server", "--protocol", "websocket", "--bind", "127.0.0.1", "--port", str(port), "--ports", "1"):
        with nginx(secured, behind=port) as front:
            held(client(f"{url('ws', front, secured)}/ws", secured, "--proof", "echo", *TALK), "end-to-end")
    with nginx(secured, behind=free_port()) as front:
        run = client(f"{url('ws', front, secured)}/ws", secured)
        assert run["errors"] == {"http_502": CONNECTIONS}, run["errors"]


def node_http(secured):
    port = free_port()
    with listening(port, "node", "-e", NODE_HTTP, str(port), *files(secured)):
        at = url("http", port, secured)
        held(client(f"{at}/a?{{token}}", secured, "--proof", "token", *TALK), "end-to-end", goodbyes=0)
        body = ["--method", "POST", "--body", "{token} and {n}"]
        held(client(f"{at}/", secured, "--proof", "token", *body, *TALK), "end-to-end", goodbyes=0)


# Our client passes messages over that are no answers, as it is no echo service. So the cases are those of pings and
# pongs, reserved bits, opcodes, fragments, closes and texts that are not UTF-8, without those that want a message back.
NOT_UTF8 = ["6.3.*", "6.4.*", "6.6.*", "6.8.*", "6.10.*", *(f"6.{group}.*" for group in range(12, 22))]
KOSOKU = ["2.*", "3.*", "4.*", "5.*", "7.*", *NOT_UTF8]
NOT_KOSOKU = ["5.3", "5.4", "5.5", "5.6", "5.7", "5.8", "5.19", "5.20", "7.1.1", "6.6.2", "6.6.5", "6.6.7", "6.6.9", "6.6.11"]
FINE = ("OK", "NON-STRICT", "INFORMATIONAL")


def ask_kosoku(port, path):
    """What kosoku says at a path, if it says anything."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect
    with connect(f"ws://127.0.0.1:{port}/{path}") as asked, contextlib.suppress(ConnectionClosed):
        return asked.recv(timeout=PATIENCE)


def kosoku(secured):
    """kosoku knows no TLS, so a relay speaks it."""
    port = free_port()
    program = os.path.join(os.path.dirname(sys.executable), "kosoku")
    with tempfile.TemporaryDirectory() as folder:
        cases = [word for case in KOSOKU for word in ("-i", case)] + [word for case in NOT_KOSOKU for word in ("-x", case)]
        with listening(port, program, "-m", "fuzzingserver", f"127.0.0.1:{port}", "-o", folder, *cases) as suite:
            count = int(ask_kosoku(port, "getCaseCount"))
            # One case is one connection, which kosoku closes. A steered client asks for no audit by itself.
            with relay(port, accepting=secured.server()) if secured else contextlib.nullcontext(port) as front:
                target = f"{url('ws', front, secured)}/runCase?case={{n}}&agent=c1m"
                words = ["--steer", "--json", "-", "--target", target, "--first-number", "1", "--connections", str(count)]
                words += trusting(secured)
                steered = subprocess.Popen([PROGRAM, "client", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                events = map(json.loads, steered.stdout)
                assert any(event.get("failed") == count for event in events), "the client ended before all cases"
                steered.stdin.close()
                steered.stdout.read()
                assert steered.wait() == 1
            ask_kosoku(port, "updateReports?agent=c1m")
            suite.wait(PATIENCE)
        with open(os.path.join(folder, "index.json")) as file:
            cases = json.load(file)["c1m"]
    assert len(cases) == count, (len(cases), count)
    behaviors = [(name, case["behavior"], case["behaviorClose"]) for name, case in cases.items()]
    bad = [case for case in behaviors if case[1] not in FINE or case[2] not in FINE]
    assert len(behaviors) > 140 and not bad, bad


CHECKS = [node_ws, python_websockets, nginx_keeps_connections, nginx_before_websocket, node_http, kosoku]
checks.run_over_both(CHECKS, WANTED)
