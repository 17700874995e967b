"""Runs c1m's client against foreign brokers; see tests/foreign/mqtt, which installs them."""

import contextlib
import json
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time

import paho.mqtt.client as paho

PROGRAM, HOME = sys.argv[1], pathlib.Path(sys.argv[2])
HERE = pathlib.Path(__file__).parent
CONNECTIONS = 200


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A server, from when it listens until the block is left."""

    def __init__(self, command, port):
        self.command, self.port = [str(word) for word in command], port

    def __enter__(self):
        self.out = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdout=self.out, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.command[0]} does not listen: {self.read()}")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.terminate()
        self.process.wait(30)

    def read(self):
        self.out.seek(0)
        return self.out.read()


def mosquitto(port, more=""):
    settings = HOME / f"mosquitto-{port}.conf"
    anonymous = "" if "allow_anonymous" in more else "allow_anonymous true\n"
    settings.write_text(f"listener {port} 127.0.0.1\nuser root\nlog_type error\n{anonymous}{more}")
    return Server([HOME / "debian/usr/sbin/mosquitto", "-c", settings], port)


def aedes(port):
    return Server(["node", HERE / "mqtt-broker.cjs", "aedes", port, HOME, 1], port)


def codec(port, seed):
    return Server(["node", HERE / "mqtt-broker.cjs", "codec", port, HOME, seed], port)


def amqtt(port):
    script = f"""
import asyncio, logging
from amqtt.broker import Broker
logging.disable(logging.CRITICAL)
async def main():
    plugins = {{'amqtt.plugins.authentication.AnonymousAuthPlugin': {{'allow_anonymous': True}}}}
    broker = Broker({{'listeners': {{'default': {{'type': 'tcp', 'bind': '127.0.0.1:{port}'}}}}, 'plugins': plugins}})
    await broker.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""
    return Server([sys.executable, "-c", script], port)


def c1m(port, words, command="client", connections=CONNECTIONS):
    """The exit code, the result and the output of a run."""
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "json"
        number = "--subscribers" if command == "fanout" else "--connections"
        line = [PROGRAM, *command.split(), "--target", f"mqtt://127.0.0.1:{port}", number, str(connections)]
        line += ["--concurrency", "64", "--json", result, *words.split()]
        if command == "client" and "--hold" not in words:
            line += ["--hold", "1s"]
        done = subprocess.run([str(word) for word in line], capture_output=True, text=True, timeout=300)
        document = json.loads(result.read_text()) if result.exists() else {}
        return done.returncode, document, done.stdout + done.stderr


def held(name, port, words, connections=CONNECTIONS):
    code, document, out = c1m(port, words, connections=connections)
    audits = [(audit["live"], audit["lost"], audit["wrong"]) for audit in document.get("audits", [])]
    right = code == 0 and audits and all(audit == (connections, 0, 0) for audit in audits)
    report(f"{name}: {words or 'as it is'}", right, out)
    return document


def failed(name, port, words, cause):
    code, document, out = c1m(port, words)
    report(f"{name}: {words}: {cause}", code == 1 and document.get("errors") == {cause: CONNECTIONS}, out)


FAILURES = []


def report(what, right, out=""):
    print(f"{'ok  ' if right else 'FAIL'} {what}", flush=True)
    if not right:
        FAILURES.append(what)
        print(out)


TALK = "--interval 100ms --payload 300 --subscribe room/{topic}/# --topics 5"


def brokers():
    """Each broker, both versions where it has them, both qualities of service, publishing and pinging."""
    for name, start, versions in [
        ("mosquitto", mosquitto, ["5", "3.1.1"]),
        ("aedes", aedes, ["3.1.1"]),
        ("amqtt", amqtt, ["3.1.1"]),
    ]:
        port = free_port()
        with start(port):
            for version in versions:
                for qos in (0, 1):
                    held(name, port, f"--mqtt-version {version} --qos {qos} {TALK}")
                held(name, port, f"--mqtt-version {version} --proof ping --interval 100ms")
                held(name, port, f"--mqtt-version {version} --mqtt-keepalive 3s --hold 8s")


def fan_out():
    """Each publication reaches each subscriber exactly once."""
    port = free_port()
    with mosquitto(port):
        for words in ("--mqtt-version 5 --qos 0", "--mqtt-version 5 --qos 1", "--mqtt-version 3.1.1 --qos 1"):
            code, _, out = c1m(port, f"--publishers 2 --rate 5 --for 2s {words}", "fanout")
            report(f"mosquitto: fan-out, {words}", code == 0 and "each was received exactly once" in out, out)


def codecs():
    """mqtt-packet writes with random properties, messages between and cuts, and reads every byte of the client."""
    for version in ("5", "3.1.1"):
        for qos in (0, 1):
            seed = random.randrange(1 << 31)
            port = free_port()
            name = f"mqtt-packet, seed {seed}"
            with codec(port, seed) as out:
                words = f"--mqtt-version {version} --qos {qos} --interval 50ms --payload 900 --subscribe noise/#"
                held(name, port, words)
                out.stop()
                counts = json.loads(out.read())
            right = not counts["wrong"] and counts["goodbyes"] == CONNECTIONS
            right = right and counts["delivered"] == counts["acknowledged"] > 0
            report(f"{name}: all that it delivered was acknowledged", right, counts)


def sessions():
    port = free_port()
    with mosquitto(port, "persistence false\n"):
        for version in ("5", "3.1.1"):
            number = f"--mqtt-version {version} --qos 1 --client-id s{version.replace('.', '')}x{{n}}"
            held("mosquitto", port, f"{number} --session keep")
            held("mosquitto", port, f"{number} --session resume")
            failed("mosquitto", port, f"{number}new --session resume", "mqtt_no_session")
        code, document, out = c1m(port, "--session keep --qos 1 --share 50 --calm 500ms --after 1s", "storm reconnect")
        storm = document.get("storm", {})
        right = code == 0 and (storm.get("redialed"), storm.get("lost"), storm.get("wrong")) == (50, 0, 0)
        report("mosquitto: storm reconnect with kept sessions", right, out)


def refusals():
    port = free_port()
    passwords = HOME / "passwords"
    rights = HOME / "rights"
    passwords.unlink(missing_ok=True)
    subprocess.run([HOME / "debian/usr/bin/mosquitto_passwd", "-b", "-c", passwords, "user", "secret"], check=True,
                   capture_output=True)
    rights.write_text("user user\ntopic readwrite c1m/#\n")
    for file in (passwords, rights):
        file.chmod(0o600)
    with mosquitto(port, f"allow_anonymous false\npassword_file {passwords}\nacl_file {rights}\n"):
        login = "--user user --password secret"
        for version in ("5", "3.1.1"):
            held("mosquitto", port, f"--mqtt-version {version} {login}")
            failed("mosquitto", port, f"--mqtt-version {version} --user user --password no",
                   "mqtt_connack_not_authorized")
            failed("mosquitto", port, f"--mqtt-version {version} {login} --topic other/{{n}}",
                   "silent")
    port = free_port()
    with mosquitto(port, "max_keepalive 10\nmax_packet_size 500\nmax_qos 0\n"):
        held("mosquitto", port, "--mqtt-keepalive 10s")
        failed("mosquitto", port, "--mqtt-keepalive 11s", "mqtt_shorter_keepalive")
        failed("mosquitto", port, "--mqtt-keepalive 5s --payload 1000", "mqtt_shorter_packets")
        failed("mosquitto", port, "--mqtt-keepalive 5s --qos 1", "mqtt_lower_qos")


def wills():
    """paho-mqtt counts the wills of a storm's victims, and publishes to c1m's connections meanwhile."""
    port = free_port()
    with mosquitto(port):
        topics, ready = set(), threading.Event()
        watcher = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        watcher.on_message = lambda client, data, message: topics.add(message.topic)
        watcher.on_subscribe = lambda *arguments: ready.set()
        watcher.connect("127.0.0.1", port)
        watcher.subscribe("gone/#", 1)
        watcher.loop_start()
        ready.wait(30)
        words = "--share 70 --calm 500ms --after 1s --will-topic gone/{n} --will-message gone --subscribe news --qos 1"
        news = threading.Thread(target=publish, args=(port,))
        news.start()
        code, document, out = c1m(port, words, "storm disconnect")
        STOP.set()
        news.join()
        deadline = time.monotonic() + 30
        while len(topics) < 70 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        report("mosquitto: storm disconnect, wills seen by paho-mqtt", code == 0 and len(topics) == 70,
               f"{len(topics)} wills\n{out}")
        watcher.loop_stop()


STOP = threading.Event()


def publish(port):
    publisher = paho.Client(paho.CallbackAPIVersion.VERSION2)
    publisher.connect("127.0.0.1", port)
    publisher.loop_start()
    while not STOP.wait(0.1):
        publisher.publish("news", b"c1m pushes this " + b"%016x%08x%016x%08x" % (1, 255, 0, 64) + b" and more", 1)
    publisher.loop_stop()


def taken_over():
    """A second client with the same identifiers: the server ends the first one's connections. mosquitto 2.0.11, Debian
    12's, says no DISCONNECT to that; later ones do."""
    port = free_port()
    with mosquitto(port), tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "json"
        command = [PROGRAM, "client", "--target", f"mqtt://127.0.0.1:{port}", "--connections", "50", "--hold", "5s"]
        first = subprocess.Popen([*command, "--json", result], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in first.stdout:
            if line.startswith("audit 1:"):
                break
        c1m(port, "", connections=50)
        out = first.stdout.read()
        first.wait(60)
        errors = json.loads(result.read_text()).get("errors")
        known = [{"mqtt_disconnect_session_taken_over": 50}, {"closed_by_server": 50}]
        report(f"mosquitto: sessions taken over: {errors}", errors in known, out)


def main():
    parts = [brokers, fan_out, codecs, sessions, refusals, wills, taken_over]
    asked = sys.argv[3:] or [part.__name__ for part in parts]
    for part in parts:
        if part.__name__ in asked:
            part()
    print(f"{len(FAILURES)} failed" if FAILURES else "all passed")
    sys.exit(1 if FAILURES else 0)


main()
