#!/usr/bin/python3
"""Writes what the last runs of the driver contract found into docs/drivers.md, between the two markers.

    cargo nextest run --release -p sandgate-tests --test driver_contract; tests/driver_contract/table.py
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "contract"
PAGE = ROOT / "docs/drivers.md"
BEGIN, END = "<!-- contract: begin -->", "<!-- contract: end -->"
DRIVERS = [
    "oci-builtin", "oci-runc", "oci-crun", "oci-runsc", "external-unix", "external-hybrid", "external-exec",
    "docker", "podman", "qemu",
]
GROUPS = ["sessions", "files", "forwards", "lifecycle", "hostile"]
MARKS = {"ok": "yes", "failed": "**no**", "skipped": "–", "exempt": "n/a"}


def table():
    outcomes, behaviours, skipped, failed = {}, [], {}, []
    for group in GROUPS:
        for driver in DRIVERS:
            file = RESULTS / f"{driver}.{group}.tsv"
            for line in file.read_text().splitlines() if file.exists() else []:
                _, behaviour, outcome, why = line.split("\t")
                if (group, behaviour) not in behaviours:
                    behaviours.append((group, behaviour))
                outcomes[driver, group, behaviour] = outcome
                if outcome == "skipped":
                    skipped[driver] = why
                if outcome == "failed":
                    failed.append(f"* {driver}, {behaviour}: `{why[:160].replace('`', chr(39))}`")
    if not behaviours:
        sys.exit(f"no results in {RESULTS}: run the contract first")
    shown = [driver for driver in DRIVERS if driver not in skipped]
    yield "| behaviour | " + " | ".join(shown) + " |"
    yield "| --- |" + " --- |" * len(shown)
    for group, behaviour in behaviours:
        cells = [MARKS.get(outcomes.get((driver, group, behaviour)), "not run") for driver in shown]
        yield f"| {behaviour} | " + " | ".join(cells) + " |"
    yield ""
    for driver, why in skipped.items():
        yield f"* {driver} was skipped: {why}."
    yield from failed


def main():
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        sys.exit(f"{PAGE} lacks the markers")
    PAGE.write_text(head + BEGIN + "\n\n" + "\n".join(table()) + "\n\n" + END + tail)


main()
