"""Browsers as clients of c1m's server. `tests/foreign/browsers` starts it.

A browser without a window loads browsers.html from a plain server of this script. The page talks to c1m over TLS, and tells
how it went. Then c1m's own counts must agree.
"""
import http.server, os, queue, subprocess, sys, tempfile, threading, time

from secured import Secured
from server import PATIENCE, Server

WANTED = sys.argv[2:]
HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20
# As in browsers.html: connections that talk, and the one with a message that is too long.
UPGRADES = 1 + 30 + 1

# What keeps Firefox from asking its makers' hosts for anything, and from thinking that it is offline without a cable.
FIREFOX = """
user_pref("app.update.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.manage-offline-status", false);
user_pref("toolkit.telemetry.enabled", false);
"""


class Page(http.server.BaseHTTPRequestHandler):
    """The page, and what it tells."""

    told = queue.Queue()

    def do_GET(self):
        is_page = self.path.startswith("/?")
        self.send_response(200 if is_page else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if is_page:
            with open(os.path.join(HERE, "browsers.html"), "rb") as file:
                self.wfile.write(file.read())

    def do_POST(self):
        self.told.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def trusts(store, secured):
    """Makes a certificate store that trusts the authority."""
    os.makedirs(store)
    subprocess.run(["certutil", "-N", "-d", f"sql:{store}", "--empty-password"], check=True)
    words = ["certutil", "-A", "-d", f"sql:{store}", "-n", "c1m", "-t", "C,,", "-i", secured.ca]
    subprocess.run(words, check=True)


def chromium(home, secured):
    trusts(os.path.join(home, ".pki/nssdb"), secured)
    words = "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
    words += " --disable-background-networking --disable-component-update --disable-sync"
    return [*words.split(), f"--user-data-dir={home}/profile"]


def firefox(home, secured):
    profile = os.path.join(home, "profile")
    trusts(profile, secured)
    with open(os.path.join(profile, "user.js"), "w") as file:
        file.write(FIREFOX)
    return ["firefox-esr", "--headless", "--no-remote", "--profile", profile]


def talk(browser, secured, stranger, page):
    """Runs a browser against a server, and compares what both saw."""
    limits = ["--protocol", "websocket", "--max-message", str(3 * MIB), "--alpn", "http/1.1"]
    with tempfile.TemporaryDirectory() as home, Server(*limits, secured=secured) as server:
        at = f"http://localhost:{page}/?at=localhost:{server.port}&stranger=localhost:{stranger.port}"
        log = open(os.path.join(home, "log"), "w+")
        environment = {**os.environ, "HOME": home, "XDG_DATA_HOME": "", "XDG_RUNTIME_DIR": home}
        process = subprocess.Popen([*browser(home, secured), at], stdout=log, stderr=log, env=environment, process_group=0)
        try:
            told = Page.told.get(timeout=PATIENCE)
        except queue.Empty:
            log.seek(0)
            raise AssertionError(f"the page told nothing: {log.read()[-3000:]}") from None
        finally:
            os.killpg(process.pid, 15)
            process.wait(PATIENCE)
        assert told == "ok", told
    counted, tls = server.document["websocket"], server.document["tls"]
    assert (counted["upgrades"], counted["too_long"], counted["protocol_errors"]) == (UPGRADES, 1, 0), counted
    assert tls["handshakes_full"] + tls["handshakes_resumed"] >= UPGRADES, tls
    return tls


def main():
    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as others:
        secured = Secured(ours)
        for browser in [chromium, firefox]:
            if WANTED and browser.__name__ not in WANTED:
                continue
            began = time.monotonic()
            with Server("--protocol", "websocket", secured=Secured(others)) as stranger:
                tls = talk(browser, secured, stranger, page.server_port)
            assert stranger.document["websocket"]["upgrades"] == 0, stranger.document
            full, resumed = tls["handshakes_full"], tls["handshakes_resumed"]
            seconds = time.monotonic() - began
            print(f"{browser.__name__}: ok, {full} full handshakes, {resumed} resumed ({seconds:.1f} s)", flush=True)


main()
