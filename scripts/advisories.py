"""Holds the lock files against the RustSec advisory database: no version with a known vulnerability may be in them.

    scripts/advisories.py DATABASE

DATABASE is a clone of github.com/rustsec/advisory-db or a packed one (tar.gz). Exit code 1: something was found.
"""

import functools
import pathlib
import re
import sys
import tarfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCKS = ("Cargo.lock", "tests/brokers/clients/lapin/Cargo.lock")
# Advisories that do not apply to how we use the crate, each with the reason.
ACCEPTED = {}
# What any database since 2026 says, or it is not read as it is meant: package, version, advisory, whether it speaks of it.
KNOWN = (
    ("lz4_flex", "0.11.5", "RUSTSEC-2026-0041", True),
    ("lz4_flex", "0.11.6", "RUSTSEC-2026-0041", False),
    ("lz4_flex", "0.12.0", "RUSTSEC-2026-0041", True),
    ("lz4_flex", "0.12.1", "RUSTSEC-2026-0041", False),
    ("h2", "0.3.25", "RUSTSEC-2024-0332", True),
    ("h2", "0.3.27", "RUSTSEC-2024-0332", False),
)


def files(database):
    """Name and text of each advisory."""
    if database.is_dir():
        for path in database.glob("crates/*/*.md"):
            yield str(path), path.read_text()
        return
    with tarfile.open(database) as archive:
        for member in archive:
            if member.isfile() and re.search(r"(^|/)crates/[^/]+/[^/]+\.md$", member.name):
                yield member.name, archive.extractfile(member).read().decode()


def read(database):
    """Package -> its advisories."""
    found = {}
    for name, text in files(database):
        front = re.match(r"```toml\n(.*?)\n```", text, re.DOTALL)
        if not front:
            raise ValueError(f"{name} is not an advisory")
        advisory = tomllib.loads(front[1]) | {"title": next(re.finditer(r"^# (.*)", text, re.MULTILINE), ("", ""))[1]}
        found.setdefault(advisory["advisory"]["package"], []).append(advisory)
    return found


@functools.total_ordering
class Version:
    """A version by the rules of semver.org."""

    def __init__(self, text):
        release, _, tail = text.strip().partition("+")[0].partition("-")
        self.release = [int(part) for part in release.split(".")]
        self.given = len(self.release)
        self.release += [0] * (3 - self.given)
        parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in tail.split(".") if part]
        self.key = (self.release, (0, parts) if parts else (1,))

    def __eq__(self, other):
        return self.key == other.key

    def __lt__(self, other):
        return self.key < other.key


def fits(version, requirement):
    """Whether a version fits a comparison such as `>= 1.2`, `^0.3.4` or `1.2.3`."""
    operator, given = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~|)\s*([0-9A-Za-z.+-]+)\s*", requirement).groups()
    bound = Version(given)
    if operator in ("", "^", "~"):
        first = next((place for place in range(3) if bound.release[place]), 2)
        same = min(bound.given, 2) if operator == "~" else min(first, bound.given - 1) + 1
        return version >= bound and version.release[:same] == bound.release[:same]
    return {">=": version >= bound, "<=": version <= bound, ">": version > bound, "<": version < bound,
            "=": version == bound}[operator]


def against(advisories, package, version):
    """The advisories that speak of this version."""
    def safe(advisory):
        versions = advisory.get("versions", {})
        ranges = versions.get("patched", []) + versions.get("unaffected", [])
        return any(all(fits(Version(version), part) for part in one.split(",")) for one in ranges)

    return [advisory for advisory in advisories.get(package, [])
            if "withdrawn" not in advisory["advisory"] and not safe(advisory)]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    advisories = read(pathlib.Path(sys.argv[1]))
    for package, version, known, expected in KNOWN:
        got = {advisory["advisory"]["id"] for advisory in against(advisories, package, version)}
        if (known in got) != expected:
            sys.exit(f"error: the database is not read as it is meant: {package} {version}: {got or 'nothing'}")
    dates = [advisory["advisory"]["date"] for package in advisories.values() for advisory in package]
    print(f"{len(dates)} advisories, the newest of {max(dates)}")
    found = 0
    for lock in LOCKS:
        packages = tomllib.loads((ROOT / lock).read_text())["package"]
        print(f"{lock}: {len(packages)} packages")
        for package in packages:
            for advisory in against(advisories, package["name"], package["version"]):
                about = advisory["advisory"]
                # Unmaintained or of note is no defect: said, not counted.
                kind = about.get("informational", "vulnerability")
                counts = kind in ("vulnerability", "unsound") and about["id"] not in ACCEPTED
                found += counts
                print(f"{'error' if counts else 'note'}: {package['name']} {package['version']}: {about['id']}, {kind}: "
                      f"{advisory['title']}; patched: {', '.join(advisory['versions'].get('patched', [])) or 'no version'}"
                      f"{'; accepted: ' + ACCEPTED[about['id']] if about['id'] in ACCEPTED else ''}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
