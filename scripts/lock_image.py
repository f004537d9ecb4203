"""Make the image's locks (image/lock) anew, from image/packages and the image's requirement files; print what changes.

Needs apt, uv, and an archive: the machine's own, or the one that --archive names. `--check` leaves the tree alone and
fails when a lock no longer is what its lists resolve to, or when the index of locks is out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from appliance.image.archive import from_machine  # noqa: E402 - found only after the path was set
from appliance.image.lock_index import INDEX, make_index  # noqa: E402 - as above
from appliance.image.lock_make import make_locks, make_wheel_locks, write_index  # noqa: E402 - as above
from measurements.errors import ChrysalisError  # noqa: E402 - as above


def main() -> int:
    """Make or check the locks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", metavar="URL", help="the main archive (its folders are dists/ and pool/)")
    parser.add_argument("--security-archive", metavar="URL", help="the archive of security updates")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a lock would change")
    parser.add_argument("--older", action="store_true", help="take an archive of an earlier day than the locks' too")
    parser.add_argument("--wheels", action="store_true", help="only the wheel locks; needs the package index alone")
    parser.add_argument("--index", action="store_true", help="only write the index of locks; needs no network")
    arguments = parser.parse_args()
    if arguments.index:
        print(f"{INDEX}: {'written' if write_index(ROOT) else 'unchanged'}")
        return 0
    words = []
    if not arguments.wheels:
        archives = from_machine(arguments.archive, arguments.security_archive)
        print(f"archives: {archives.main} and {archives.security}")
        words += make_locks(ROOT, archives, older=arguments.older, write=not arguments.check, say=print)
    words += make_wheel_locks(ROOT, write=not arguments.check, say=print)
    print("\n".join(words) if words else "nothing changed")
    stale = arguments.check and (words or (ROOT / INDEX).read_bytes() != make_index(ROOT))
    if stale:
        print("out of date: run just lock and review the difference", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ChrysalisError as error:
        sys.exit(f"lock_image: {error.message}\nhint: {error.hint}")
