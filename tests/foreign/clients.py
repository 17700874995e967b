"""Foreign clients of WebSocket and HTTP as peers of c1m's server. `tests/foreign/clients` starts it.

Each check starts a server, runs a client against it, and looks at what the client saw and at what the server counted: once
over plain bytes, and once over TLS.
"""
import asyncio, contextlib, json, os, random, subprocess, sys, tempfile

import picows
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

import checks
from secured import relay
from server import PATIENCE, Server

WANTED = sys.argv[2:]
CLIENTS = 100
MIB = 1 << 20
# Around each length at which the header of a frame changes, and one message that no receive buffer holds.
SIZES = [0, 1, 125, 126, 127, 4_096, 65_535, 65_536, MIB]


def kosoku(secured):
    """Autobahn's cases but those of compression, which are of an extension. kosoku knows no TLS, so a relay speaks it."""
    program = os.path.join(os.path.dirname(sys.executable), "kosoku")
    limits = ["--protocol", "websocket", "--max-message", str(32 * MIB)]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        port = stack.enter_context(Server(*limits, secured=secured)).port
        if secured:
            port = stack.enter_context(relay(port, connecting=secured.client()))
        words = [program, "-m", "fuzzingclient", f"ws://127.0.0.1:{port}", "-o", folder]
        ended = subprocess.run([*words, "-x", "12.*", "-x", "13.*"], capture_output=True, text=True, timeout=10 * PATIENCE)
        assert ended.returncode in (0, 1), ended.stdout + ended.stderr
        with open(os.path.join(folder, "index.json")) as file:
            [cases] = json.load(file).values()
    fine = ("OK", "NON-STRICT", "INFORMATIONAL")
    bad = {name: case for name, case in cases.items() if {case["behavior"], case["behaviorClose"]} - {*fine}}
    assert len(cases) > 240 and not bad, (len(cases), bad)
    kinds = [case["behavior"] for case in cases.values()]
    print(f"  {len(cases)} cases:", ", ".join(f"{kinds.count(kind)} {kind}" for kind in fine))


async def talk_websockets(server, seed):
    noise = random.Random(seed)
    async with connect(f"{server.url('ws')}/room?{seed}", max_size=4 * MIB, ssl=server.context()) as client:
        for size in SIZES if seed == 0 else SIZES[:5]:
            text = ("grüße, 百万! " * (size // 10 + 1))[:size]
            binary = noise.randbytes(size)
            for message in (text, binary, [text[: size // 2], text[size // 2 :]], [binary[:1], binary[1:2], binary[2:]]):
                await client.send(message)
                back = await asyncio.wait_for(client.recv(), PATIENCE)
                assert back == (message if not isinstance(message, list) else type(back)().join(message)), size
        await asyncio.wait_for(await client.ping(b"are you there"), PATIENCE)
        await client.close(4321, "enough")
        assert (client.close_code, client.close_reason) == (4321, ""), (client.close_code, client.close_reason)


def python_websockets(secured):
    async def all_of_them(server):
        await asyncio.gather(*(talk_websockets(server, seed) for seed in range(CLIENTS)))
        async with connect(f"{server.url('ws')}/", max_size=None, ssl=server.context()) as client:
            with contextlib.suppress(ConnectionClosedError):
                await client.send(b"x" * (4 * MIB))
                await asyncio.wait_for(client.recv(), PATIENCE)
                raise AssertionError("a message that is too long came back")
            assert client.close_code == 1009, client.close_code

    with Server("--protocol", "websocket", "--max-message", str(3 * MIB), secured=secured) as server:
        asyncio.run(all_of_them(server))
    spoken = server.document["websocket"]
    assert (spoken["upgrades"], spoken["too_long"], spoken["protocol_errors"]) == (CLIENTS + 1, 1, 0), spoken


class Picows(picows.WSListener):
    """Sends the next message when the last one has come back."""

    def on_ws_connected(self, transport):
        self.left, self.pieces, self.done = list(SIZES), [], asyncio.get_running_loop().create_future()
        self.next(transport)

    def next(self, transport):
        if not self.left:
            transport.send_close(picows.WSCloseCode.OK)
            return
        self.said = random.randbytes(self.left.pop(0))
        transport.send(picows.WSMsgType.BINARY, self.said)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == picows.WSMsgType.CLOSE:
            self.done.set_result(frame.get_close_code())
            transport.disconnect()
            return
        assert frame.msg_type == picows.WSMsgType.BINARY and frame.fin
        assert frame.get_payload_as_bytes() == self.said
        self.next(transport)


def python_picows(secured):
    async def talk(server):
        at = f"{server.url('ws')}/"
        transport, listener = await picows.ws_connect(Picows, at, max_frame_size=4 * MIB, ssl_context=server.context())
        assert await asyncio.wait_for(listener.done, PATIENCE) == picows.WSCloseCode.OK
        await transport.wait_disconnected()

    async def all_of_them(server):
        await asyncio.gather(*(talk(server) for _ in range(20)))

    with Server("--protocol", "websocket", "--max-message", str(3 * MIB), secured=secured) as server:
        asyncio.run(all_of_them(server))
    spoken = server.document["websocket"]
    assert spoken["messages"] == 20 * len(SIZES) and spoken["protocol_errors"] == 0, spoken


NODE_WS = """
const { once } = require('events'), { WebSocket } = require('ws');
const [at, clients] = [process.argv[1], +process.argv[2]];
const sizes = [0, 1, 125, 126, 65535, 65536, 1 << 20];
async function talk(number) {
  const socket = new WebSocket(`${at}/${number}`, { perMessageDeflate: true });
  const next = name => once(socket, name);
  await next('open');
  if (socket.extensions !== '') throw Error('an extension was agreed on');
  for (const size of number ? sizes.slice(0, 4) : sizes) {
    for (const said of ['ü'.repeat(size / 2), Buffer.alloc(size, number)]) {
      const heard = next('message');
      // In two fragments, with a ping between them.
      socket.send(said.slice(0, said.length / 2), { fin: false });
      const pong = next('pong');
      socket.ping('between');
      socket.send(said.slice(said.length / 2), { fin: true });
      if ((await pong)[0].toString() !== 'between') throw Error('another pong');
      const [data, binary] = await heard;
      if (binary !== Buffer.isBuffer(said) || !data.equals(Buffer.from(said))) throw Error(`${size} bytes came back changed`);
    }
  }
  const closed = next('close');
  socket.close(1000);
  if ((await closed)[0] !== 1000) throw Error('another close');
}
Promise.all([...Array(clients).keys()].map(talk)).then(() => process.exit(0), error => { console.error(error); process.exit(1); });
"""


def node(server, script):
    """A script that is told where the server is, and how many clients to be."""
    trusting = {"NODE_EXTRA_CA_CERTS": server.secured.ca} if server.secured else {}
    words = ["node", "-e", script, server.url("ws"), str(CLIENTS)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, **trusting})


def node_ws(secured):
    with Server("--protocol", "websocket", "--max-message", str(3 * MIB), secured=secured) as server:
        assert node(server, NODE_WS).wait(PATIENCE) == 0
    spoken = server.document["websocket"]
    assert spoken["upgrades"] == CLIENTS and spoken["protocol_errors"] == 0, spoken


NODE_SUBSCRIBERS = """
const { WebSocket } = require('ws');
const [at, clients] = [process.argv[1], +process.argv[2]];
let open = 0, heard = 0;
for (let number = 0; number < clients; number++) {
  const socket = new WebSocket(`${at}/news`);
  socket.on('open', () => { if (++open === clients) console.log('open'); });
  socket.on('message', data => {
    if (data.toString() !== 'good morning') process.exit(1);
    if (++heard === clients) { console.log('heard'); process.exit(0); }
  });
}
"""


def node_subscribers(secured):
    """What curl publishes reaches each of Node's subscribers."""
    with Server("--protocol", "websocket", "--service", "push", secured=secured) as server:
        subscribers = node(server, NODE_SUBSCRIBERS)
        assert subscribers.stdout.readline() == b"open\n"
        at = f"{server.url('http')}/publish"
        posted = curl(server, at, "--data", "good morning", "--write-out", "%{http_code}")
        assert posted.endswith("202"), posted
        assert subscribers.stdout.readline() == b"heard\n" and subscribers.wait(PATIENCE) == 0
    pushed = server.document["push"]
    assert (pushed["publications"], pushed["pushes"], pushed["missed"]) == (1, CLIENTS, 0), pushed


def curl_words(server, *words):
    trusting = ["--cacert", server.secured.ca] if server.secured else []
    return ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE), *trusting, *words]


def curl(server, *words):
    return subprocess.run(curl_words(server, *words), check=True, capture_output=True, timeout=2 * PATIENCE).stdout.decode()


# The status, and the connections that curl had to open for it.
ANSWERED = ["--write-out", "\n%{http_code} %{num_connects}\n"]
UPGRADE = ["--http1.1", "--include", "--header", "Connection: Upgrade", "--header", "Upgrade: websocket"]
UPGRADE += ["--header", "Sec-WebSocket-Version: 13", "--header", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]


def curl_http(secured):
    with Server("--protocol", "http", "--max-message", str(MIB), secured=secured) as server:
        at = server.url("http")
        # One connection for all.
        kept = curl(server, f"{at}/healthz", *ANSWERED, f"{at}/a?b=c", f"{at}/d").split("\n")
        assert kept == ["ok", "", "200 1", "/a?b=c", "200 0", "/d", "200 0", ""], kept
        assert curl(server, "--head", f"{at}/a").startswith("HTTP/1.1 200 ")
        with tempfile.NamedTemporaryFile() as body:
            body.write(os.urandom(MIB))
            body.flush()
            words = curl_words(server, "--data-binary", f"@{body.name}", f"{at}/")
            back = subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE)
            with open(body.name, "rb") as file:
                assert back.stdout == file.read()
            body.write(b"one more")
            body.flush()
            # A client that asks first, and one that sends the body at once.
            for expect in ["Expect: 100-continue", "Expect:"]:
                too_long = ["--header", expect, "--data-binary", f"@{body.name}"]
                assert " 413 " in curl(server, "--include", *too_long, f"{at}/").split("\r\n")[0]
        assert curl(server, "--header", "X-Token: abc", "--include", f"{at}/").count("X-Token: abc\r\n") == 1
        assert curl(server, "--header", "Transfer-Encoding: chunked", "--data", "a", *ANSWERED, f"{at}/") == "a\n200 1\n"
        assert curl(server, "--http1.0", *ANSWERED, f"{at}/old") == "/old\n200 1\n"
        assert curl(server, "--header", f"Long: {'x' * 20_000}", *ANSWERED, f"{at}/").endswith("431 1\n")
    http = server.document["http"]
    # Two bodies and a head.
    assert (http["malformed"], http["too_long"]) == (0, 3), http


def curl_websocket(secured):
    with Server("--protocol", "websocket", secured=secured) as server:
        at = server.url("http")
        assert curl(server, f"{at}/healthz", *ANSWERED).endswith("200 1\n")
        plain = curl(server, "--include", f"{at}/", *ANSWERED)
        assert plain.endswith("426 1\n") and "Upgrade: websocket\r\n" in plain, plain
        # curl waits for more until its time is over, as the connection stays open.
        words = curl_words(server, "--no-buffer", "--max-time", "1", *UPGRADE, f"{at}/chat")
        agreed = subprocess.run(words, capture_output=True, timeout=PATIENCE)
        assert agreed.returncode == 28 and agreed.stdout.startswith(b"HTTP/1.1 101 "), agreed
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in agreed.stdout, agreed.stdout
    assert server.document["websocket"]["upgrades"] == 1, server.document


CHECKS = [kosoku, python_websockets, python_picows, node_ws, node_subscribers, curl_http, curl_websocket]
checks.run_over_both(CHECKS, WANTED)
