"""Runs the named checks of a script of this folder, and tells how each ended."""
import functools, sys, tempfile, time

from secured import Secured


def run(title, checks):
    """Runs every check of `(name, check)` pairs. The program ends with 1 if one failed."""
    failed = passed = 0
    for name, check in checks:
        began = time.monotonic()
        try:
            check()
        except Exception as error:
            failed += 1
            print(f"FAILED {name}: {error!r}", flush=True)
        else:
            passed += 1
            print(f"ok {name} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{title}{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def run_over_both(checks, wanted):
    """Runs those checks whose names are wanted, or all, over plain bytes and then over TLS. Each is told how it is secured,
    if it is."""
    with tempfile.TemporaryDirectory() as certificates:
        ways = [("", None), (" over TLS", Secured(certificates))]
        chosen = [check for check in checks if not wanted or check.__name__ in wanted]
        named = [(check.__name__ + over, functools.partial(check, secured)) for over, secured in ways for check in chosen]
        run("", named)
