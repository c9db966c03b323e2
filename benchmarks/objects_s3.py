"""How fast artefacts go to S3 and back, beside boto3's own calls on the same data.

    python -m benchmarks.objects_s3 [--gib 1] [--files 2000] [--rounds 3]

One large file and many files of 1 to 8 KiB, on a moto server of its own, beside upload_file and
download_file, one call after the other. moto copies the whole object for each range it is asked
for, so its large downloads are slow for everybody. Needs four times the large file on the disk
below --scratch. Medians and ranges of wall seconds. `file://` is in `benchmarks.objects`.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import boto3

from benchmarks.objects import make_large, make_small, remove, seconds
from infra.objects import delete, get, put
from tests.helpers.s3_server import moto_server

Times = dict[tuple[str, str], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1, help="size of the large file, GiB")
    parser.add_argument("--files", type=int, default=2000, help="number of small files")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, interleaved")
    parser.add_argument("--scratch", type=Path, default=None, help="folder to work in")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        sources = {
            f"{options.gib:g} GiB file": make_large(scratch / "large", options.gib * 1024),
            f"{options.files} small files": make_small(scratch / "small", options.files),
        }
        with moto_server(scratch / "moto.log") as url:
            os.environ["NIGHTSHIFT_S3_ENDPOINT_URL"] = url
            boto3.client("s3", endpoint_url=url).create_bucket(Bucket="bench")
            times: Times = defaultdict(list)
            for _ in range(options.rounds):
                for name, source in sources.items():
                    one_round(name, source, scratch, url, times)
    report(times)


def one_round(name: str, source: Path, scratch: Path, url: str, times: Times) -> None:
    """Every way once; what one leaves is removed before the next."""
    copy = scratch / "copy"
    uri = "s3://bench/artefact"
    times[name, "put"].append(seconds(put, source, uri))
    times[name, "get"].append(seconds(get, uri, copy))
    delete(uri)
    remove(copy)
    client = boto3.client("s3", endpoint_url=url)
    keys = (
        {"plain": source} if source.is_file() else {f"plain/{p.name}": p for p in source.iterdir()}
    )
    copy.mkdir()
    times[name, "boto3 upload_file"].append(
        seconds(lambda: [client.upload_file(str(path), "bench", key) for key, path in keys.items()])
    )
    times[name, "boto3 download_file"].append(
        seconds(
            lambda: [
                client.download_file("bench", key, str(copy / path.name))
                for key, path in keys.items()
            ]
        )
    )
    for key in keys:
        client.delete_object(Bucket="bench", Key=key)
    remove(copy)


def report(times: Times) -> None:
    """A table for people, then one line of JSON."""
    print(f"{'payload':18} {'way':24} {'median s':>9} {'min':>7} {'max':>7}")
    for (name, way), found in times.items():
        middle, least, most = statistics.median(found), min(found), max(found)
        print(f"{name:18} {way:24} {middle:9.2f} {least:7.2f} {most:7.2f}")
    print(
        json.dumps(
            {
                "benchmark": "objects_s3",
                "cpus": os.cpu_count(),
                "seconds": [
                    {"payload": name, "way": way, "median": statistics.median(found), "all": found}
                    for (name, way), found in times.items()
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
