"""Compares .hlog and .hgrm with the JSON of the same run, by HdrHistogram's own package. Started by
tests/readback."""

import json
import math
import re
import socket
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

HOUR_US, DIGITS = 3_600_000_000, 3
FIGURES = {name: Fraction(percent) for name, percent in [("p50", "50"), ("p90", "90"), ("p99", "99"), ("p999", "99.9"), ("p9999", "99.99")]}
PORTS = 2


def same(what, ours, theirs):
    if ours != theirs:
        sys.exit(f"readback: {what}: c1m says {ours}, the reader {theirs}")


def free_ports():
    """The first of some adjacent ports without a listener."""
    for port in range(21_000, 30_000, PORTS):
        try:
            for one in range(port, port + PORTS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
            return port
        except OSError:
            continue
    sys.exit("readback: no free ports")


def logged(path):
    """Every series of a log by its tag, with its intervals merged."""
    reader = HistogramLogReader(str(path), HdrHistogram(1, HOUR_US, DIGITS))
    series, intervals = {}, 0
    while (interval := reader.get_next_interval_histogram()) is not None:
        intervals += 1
        tag = interval.get_tag()
        # An interval between two phases may be shorter than the format's millisecond.
        length = interval.get_end_time_stamp() - interval.get_start_time_stamp()
        same(f"an interval of {length} ms", True, 0 <= length < 10_000)
        series.setdefault(tag, HdrHistogram(1, HOUR_US, DIGITS)).add(interval)
    reader.close()
    lines = sum(line.startswith("Tag=") for line in path.read_text().splitlines())
    same("intervals", lines, intervals)
    return series


def check(what, document, histogram):
    """Compares a latency of the JSON with a histogram that the reader made."""
    same(f"{what}: count", document["count"], histogram.get_total_count())
    if document["count"] == 0:
        return
    for name, percent in FIGURES.items():
        # A percentile is the value at the next whole rank, as in the Java original. The package would round to
        # the nearest rank, so this asks for the rank itself.
        rank = math.ceil(percent * document["count"] / 100)
        same(f"{what}: {name}", document[name], histogram.get_value_at_percentile(float(100 * rank / document["count"])))
    same(f"{what}: max", document["max"], histogram.get_highest_equivalent_value(histogram.get_max_value()))


def check_log(client, path):
    """Compares the log with each shard's figures, and with those of all shards."""
    series = logged(path)
    echo = {"audits": "audit", "messages": "echo"}[client["echo_source"]]
    names = {"connect": "connect_latency_us", "retransmitted": "retransmitted_latency_us", echo: "echo_latency_us"}
    for measure, name in names.items():
        whole = HdrHistogram(1, HOUR_US, DIGITS)
        for shard in client["shards"]:
            part = series.get(f"{measure}-{shard['shard']}", HdrHistogram(1, HOUR_US, DIGITS))
            check(f"{path.name} {measure}-{shard['shard']}", shard[name], part)
            whole.add(part)
        check(f"{path.name} {measure}", client[name], whole)
        check(f"JSON {name}", client[name], HdrHistogram.decode(client[name]["histogram"]))
    print(f"{path.name}: {len(series)} series, {client['connect_latency_us']['count']} connects, "
          f"{client['echo_latency_us']['count']} echoes of {client['echo_source']}: the same")


def rows(text):
    """Value, percentile and count of each row of a percentile file."""
    lines = [line.split() for line in text.splitlines()[2:] if not line.startswith("#")]
    return [(float(value), float(percentile), int(count)) for value, percentile, count, *_ in lines]


def check_hgrm(client, path):
    """Compares each row of the percentile file with the JSON's histogram as the reader reads it. The reader's own
    rows would be at other percentiles, as it steps more finely than the Java original."""
    text, document = path.read_text(), client["connect_latency_us"]
    histogram = HdrHistogram.decode(document["histogram"])
    below = {step.value_iterated_to: step.total_count_to_this_value for step in histogram.get_recorded_iterator()}
    ours = rows(text)
    for value, quantile, total in ours:
        # The file has 12 digits of the quantile. At the edge between two ranks either rank is right.
        exact, most = quantile * document["count"], document["count"]
        ranks = {min(most, max(1, math.ceil(exact + edge))) for edge in (-1e-6, 1e-6)}
        theirs = {histogram.get_value_at_percentile(100 * rank / most) / 1_000 for rank in ranks}
        same(f"{path.name}: value at {quantile}", value, value if value in theirs else theirs)
        same(f"{path.name}: count up to {value}", total, below[round(value * 1_000)])
    same(f"{path.name}: the last row", (1.0, document["count"]), ours[-1][1:])
    found = re.search(r"Max\s*=\s*([\d.]+), Total count\s*=\s*(\d+)", text)
    same(f"{path.name}: count", document["count"], int(found.group(2)))
    same(f"{path.name}: max", document["max"] / 1_000, float(found.group(1)))
    print(f"{path.name}: {len(ours)} rows: the same")


def run(program, arguments):
    finished = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        sys.exit(f"readback: c1m {' '.join(arguments)}: {finished.returncode}\n{finished.stdout}{finished.stderr}")


def main(program):
    with tempfile.TemporaryDirectory() as folder:
        demo, client = (Path(folder, name) for name in ("demo", "client"))
        port = ["--port", str(free_ports()), "--ports", str(PORTS)]
        few = ["--connections", "2000", "--hold", "3s", *port]
        run(program, ["demo", *few, "--json", f"{demo}.json", "--hlog", f"{demo}.hlog"])
        check_log(json.loads(Path(f"{demo}.json").read_text())["client"], Path(f"{demo}.hlog"))
        server = subprocess.Popen([program, "server", *port], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            while "ready" not in (line := server.stdout.readline()):
                same("the server's end", True, line != "")
            files = ["--json", f"{client}.json", "--hlog", f"{client}.hlog", "--histogram", f"{client}.hgrm"]
            run(program, ["client", "--target-ip", "127.0.0.1", *few, "--interval", "200ms", *files])
        finally:
            server.terminate()
            server.communicate()
        document = json.loads(Path(f"{client}.json").read_text())
        check_log(document, Path(f"{client}.hlog"))
        check_hgrm(document, Path(f"{client}.hgrm"))


main(sys.argv[1])
