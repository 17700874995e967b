"""Compares .hlog and .hgrm with the JSON of the same run, by HdrHistogram's own package. Started by
tests/readback."""

import io
import json
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

HOUR_US, DIGITS = 3_600_000_000, 3
FIGURES = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9, "p9999": 99.99}
PORTS = 2


def same(what, ours, theirs):
    if ours != theirs:
        sys.exit(f"readback: {what}: c1m says {ours}, the reader {theirs}")


def free_ports():
    """The first of some adjacent ports that nobody listens on."""
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
    """Every series of a log, by its tag, its intervals merged."""
    reader = HistogramLogReader(str(path), HdrHistogram(1, HOUR_US, DIGITS))
    series, intervals = {}, 0
    while (interval := reader.get_next_interval_histogram()) is not None:
        intervals += 1
        tag = interval.get_tag()
        same("length of an interval", True, 0 < interval.get_end_time_stamp() - interval.get_start_time_stamp() < 10_000)
        series.setdefault(tag, HdrHistogram(1, HOUR_US, DIGITS)).add(interval)
    reader.close()
    lines = sum(line.startswith("Tag=") for line in path.read_text().splitlines())
    same("intervals", lines, intervals)
    return series


def check(what, document, histogram):
    """A latency of the JSON against a histogram that the reader made."""
    same(f"{what}: count", document["count"], histogram.get_total_count())
    if document["count"] == 0:
        return
    for name, percent in FIGURES.items():
        same(f"{what}: {name}", document[name], histogram.get_value_at_percentile(percent))
    same(f"{what}: max", document["max"], histogram.get_highest_equivalent_value(histogram.get_max_value()))


def check_log(client, path):
    """The log against each shard's figures, and against those of all."""
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
    """The percentile file against the one that the reader writes of the JSON's histogram."""
    theirs = io.BytesIO()
    HdrHistogram.decode(client["connect_latency_us"]["histogram"]).output_percentile_distribution(theirs, 1_000.0, 5)
    ours, theirs = rows(path.read_text()), rows(theirs.getvalue().decode())
    same(f"{path.name}: rows", len(ours), len(theirs))
    for our, their in zip(ours, theirs):
        same(f"{path.name}: a row", our, their)
    found = re.search(r"Max\s*=\s*([\d.]+), Total count\s*=\s*(\d+)", path.read_text())
    same(f"{path.name}: count", client["connect_latency_us"]["count"], int(found.group(2)))
    same(f"{path.name}: max", client["connect_latency_us"]["max"] / 1_000, float(found.group(1)))
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
            run(program, ["client", *few, "--interval", "200ms", *files])
        finally:
            server.terminate()
            server.communicate()
        document = json.loads(Path(f"{client}.json").read_text())
        check_log(document, Path(f"{client}.hlog"))
        check_hgrm(document, Path(f"{client}.hgrm"))


main(sys.argv[1])
