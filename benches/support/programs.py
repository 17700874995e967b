"""What the benches in Python have in common: a network of their own, and processes of c1m with the events that they print."""

import atexit
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import threading
import time

CLONE_NEWNET = 0x40000000
# The cores on which this process may run.
CORES = os.sched_getaffinity(0)


def own_network(port, ports):
    """From here on this process is in a network namespace of its own, in which a server may have these ports."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise SystemExit("a network namespace of its own needs root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
        file.write("1024 65535")
    with open("/proc/sys/net/ipv4/ip_local_reserved_ports", "w") as file:
        file.write(f"{port}-{port + ports - 1}")


def keep_off(core):
    """No thread of this process runs on this core until `anywhere`. What the process starts meanwhile keeps off it too."""
    run_on(CORES - {core})


def anywhere():
    """This process may run on all of its cores again."""
    run_on(CORES)


def run_on(cores):
    """All threads of this process run on these cores alone."""
    for thread in os.listdir("/proc/self/task"):
        # It may have ended meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


class Program:
    """A process of c1m, and the events that it prints."""

    def __init__(self, command, environment=None, descriptors=()):
        high = [os.dup(fd) for fd in descriptors]

        def place():
            os.environ["LISTEN_PID"] = str(os.getpid())
            copies = [os.dup2(fd, 1000 + at) for at, fd in enumerate(high)]
            for at, fd in enumerate(copies):
                os.dup2(fd, 3 + at, inheritable=True)

        shell = ["sh", "-c", 'LISTEN_PID=$$; export LISTEN_PID; exec "$0" "$@"']
        self.process = subprocess.Popen(
            shell + command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            close_fds=not descriptors,
            preexec_fn=place if descriptors else None,
        )
        [os.close(fd) for fd in high]
        atexit.register(self.process.kill)
        self.events = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            try:
                self.events.append(json.loads(line))
            except json.JSONDecodeError:
                print(line, end="")

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def last(self, kind):
        return next((event for event in reversed(self.events) if event.get("event") == kind), None)

    def until(self, what, holds, seconds=3600):
        print(f"waiting: {what}", file=sys.stderr, flush=True)
        end = time.time() + seconds
        while not holds():
            if self.process.poll() is not None:
                self.reader.join()
                if holds():
                    return
                raise SystemExit(f"it ended before {what}")
            if time.time() > end:
                raise SystemExit(f"not within {seconds} s: {what}")
            time.sleep(0.05)

    def all(self, kind):
        return [event for event in self.events if event.get("event") == kind]

    def audits(self):
        return len(self.all("audit"))

    def result(self):
        self.process.wait()
        self.reader.join()
        return self.events[-1]
