"""Runs the named checks of a script of this folder, and tells how each ended."""
import sys


def run(title, checks):
    """Runs every check of `(name, check)` pairs. The program ends with 1 if one failed."""
    failed = passed = 0
    for name, check in checks:
        try:
            check()
        except Exception as error:
            failed += 1
            print(f"FAILED {name}: {error!r}", flush=True)
        else:
            passed += 1
            print(f"ok {name}", flush=True)
    print(f"{title}{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
