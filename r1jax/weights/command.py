"""`r1jax weights list | pull | verify | path`."""

import argparse
import json
import sys
from typing import Any

from tqdm import tqdm

from r1jax.errors import R1JaxError, UsageError
from r1jax.weights.cache import cache_folder, cached, present, pull, unverified, verify
from r1jax.weights.catalogue import PAGE, Entry, catalogue, entries


def list_weights(args: argparse.Namespace) -> int:
    """Prints the catalogue, or what names and groups stand for."""
    chosen = entries(args.names) if args.names else catalogue().values()
    rows = [
        {
            "name": entry.name,
            "cached": present(entry),
            "task": entry.task,
            "net": entry.net,
            "license": entry.license,
            "noncommercial": entry.noncommercial,
            "unverified": entry.unverified,
            "by_hand": entry.source.startswith(PAGE),
            "figure": entry.figure,
            "source": entry.source,
        }
        for entry in chosen
    ]
    if args.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        mark = "*" if row["cached"] else " "
        restricted = ", NON-COMMERCIAL" if row["noncommercial"] else ""
        figure = row["figure"] or "no published figure"
        notes = "; unverified" * bool(row["unverified"]) + "; download by hand" * bool(row["by_hand"])
        print(f"{mark} {row['name']:24} {row['task']:18} {row['license']}{restricted}; {figure}{notes}")
    print(f"* in {cache_folder()}; unverified: the catalogue has no sha256, the first download's is recorded")
    return 0


def pull_weights(args: argparse.Namespace) -> int:
    """Brings entries and groups into the cache; goes on with the others when one fails."""
    failures, folders = 0, {}
    if args.file and len(entries(args.names)) != 1:
        raise UsageError(f"--file {args.file}: is one file; name the one entry that it is of")
    for entry in entries(args.names):
        bars = _Bars(quiet=args.quiet or args.json)
        try:
            known = present(entry) and not args.file
            folders[entry.name] = str(
                pull(
                    entry,
                    offline=args.offline,
                    mirror=args.mirror,
                    accept_license=args.accept_license,
                    own=args.file,
                    report=bars.report,
                )
            )
        except R1JaxError as error:
            bars.close()
            if len(args.names) == 1 and len(entries(args.names)) == 1:
                raise
            print(f"r1jax: {error}", file=sys.stderr)
            failures += 1
            continue
        bars.close()
        if not args.json:
            print(f"{entry.name}: {'was in the cache' if known else 'pulled'}  [{folders[entry.name]}]", flush=True)
            for file, sha256 in unverified(entry).items():
                print(f"  unverified: {file} has no sha256 in the catalogue; recorded {sha256}", flush=True)
    if args.json:
        print(json.dumps(folders))
    return 1 if failures else 0


def verify_weights(args: argparse.Namespace) -> int:
    """Compares cached files with the catalogue: those named, or all that are there."""
    chosen = entries(args.names) if args.names else [entry for entry in catalogue().values() if present(entry)]
    rows = [_verified(entry) for entry in chosen]
    if args.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            notes = [f", {file} unverified (sha256 at its first download: {sha})" for file, sha in row["unverified"].items()]
            state = "unchanged" if notes else "ok"
            for line in row["problems"] or [f"{row['name']}: {state}{''.join(notes)}"]:
                print(line)
        if not rows:
            print(f"nothing in {cache_folder()}")
    return 1 if any(row["problems"] for row in rows) else 0


def _verified(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "problems": verify(entry), "unverified": unverified(entry)}


def print_path(args: argparse.Namespace) -> int:
    """Prints the folder of cached weights, or of the cache."""
    path = str(cached(args.name)) if args.name else str(cache_folder())
    print(json.dumps({"path": path}) if args.json else path)
    return 0


class _Bars:
    """One progress bar a file, on a terminal only."""

    def __init__(self, quiet: bool):
        self._disable = True if quiet else None
        self._bar: tqdm | None = None
        self._file = ""

    def report(self, file: str, done: int, total: int | None) -> None:
        if file != self._file:
            self.close()
            self._file = file
            self._bar = tqdm(desc=file, total=total, unit="B", unit_scale=True, disable=self._disable, leave=False)
        assert self._bar is not None
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._file = None, ""
