"""Make the demo's data: short texts of four domains, each called positive or negative.

The texts and their ratings come with the source distribution of the package vaderSentiment (MIT
licence; Hutto & Gilbert, ICWSM 2014): each text was rated by 20 people from -4 to +4. Run as
`python demo/prepare_data.py`; it needs only the standard library and pip, downloads 2.4 MB once,
and always writes the same bytes. See `demo/README.md`.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

DISTRIBUTION = "vaderSentiment==3.3.2"
SDIST = "vaderSentiment-3.3.2.tar.gz"
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
DOMAINS = {
    "product": "amazonReviewSnippets",
    "film": "movieReviewSnippets",
    "editorial": "nytEditorialSnippets",
    "tweet": "tweets",
}
# Rows whose mean rating lies nearer to zero are left out: people did not agree that they lean.
NEUTRAL_BELOW = 0.5
ROWS_PER_DOMAIN_AND_LABEL = 125
SEED = 20140601
FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Snippet:
    """One rated text."""

    id: str
    text: str
    rating: float
    domain: str
    group: str

    @property
    def label(self) -> str:
        """The sign of its mean rating."""
        return "positive" if self.rating > 0 else "negative"


def main() -> None:
    """Write `sentiment.jsonl` and its licence."""
    target = FOLDER / "sentiment.jsonl"
    archive = download()
    rows = choose(read(archive))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "LICENSE.txt").write_bytes(member(archive, "LICENSE.txt"))
    partial = target.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            content = {
                "id": row.id,
                "text": row.text,
                "label": row.label,
                "domain": row.domain,
                "group": row.group,
            }
            stream.write(json.dumps(content, ensure_ascii=False) + "\n")
    partial.replace(target)
    sys.stdout.write(f"{len(rows)} rows in {target}\n")


def download() -> bytes:
    """The source distribution; pip itself refuses a file with another hash."""
    with tempfile.TemporaryDirectory() as folder:
        # Only the source distribution holds the ratings. With a hash demanded, pip compares it
        # before it runs the distribution's set-up script, which it does to learn the metadata.
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{DISTRIBUTION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
        command = [*pip, *options, "--dest", folder, "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{DISTRIBUTION} cannot be downloaded:\n{done.stderr.strip()}")
        content = (Path(folder) / SDIST).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SDIST_SHA256:
        sys.exit(f"{SDIST} has SHA-256 {found}, expected {SDIST_SHA256}")
    return content


def member(archive: bytes, name: str) -> bytes:
    """One file of a tar archive, found by the end of its path."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar.getmembers():
            if info.isfile() and info.name.endswith(f"/{name}"):
                stream = tar.extractfile(info)
                if stream is not None:
                    return stream.read()
    sys.exit(f"{name} is not in the archive")


def read(archive: bytes) -> list[Snippet]:
    """Every snippet that leans, once per distinct text."""
    inner = member(archive, INNER)
    snippets: dict[str, Snippet] = {}
    for domain, file in DOMAINS.items():
        lines = member(inner, f"{file}_GroundTruth.txt").decode("utf-8").splitlines()
        for line in lines:
            number, rating, text = line.split("\t", 2)
            text = re.sub(r"\s+", " ", html.unescape(text)).strip()
            if abs(float(rating)) < NEUTRAL_BELOW or not text:
                continue
            # "12_3" is the third sentence of article 12; tweets and films stand alone.
            group = f"{domain}-{number.partition('_')[0]}"
            key = re.sub(r"\W+", " ", text.lower()).strip() or text
            snippets.setdefault(
                key, Snippet(f"{domain}-{number}", text, float(rating), domain, group)
            )
    return list(snippets.values())


def choose(snippets: list[Snippet]) -> list[Snippet]:
    """The same number of every domain and label, drawn with a fixed seed, then mixed."""
    cells: dict[tuple[str, str], list[Snippet]] = defaultdict(list)
    for snippet in snippets:
        cells[snippet.domain, snippet.label].append(snippet)
    draw = random.Random(SEED)
    chosen: list[Snippet] = []
    for key in sorted(cells):
        chosen += draw.sample(cells[key], ROWS_PER_DOMAIN_AND_LABEL)
    draw.shuffle(chosen)
    return chosen


if __name__ == "__main__":
    main()
