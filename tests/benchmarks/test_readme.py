"""The speeds that README tells are those of the benchmark's own page."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGE = (REPOSITORY / "benchmarks" / "results.md").read_text(encoding="utf-8")
# Columns of README: section of the page, dtype.
COLUMNS = (
    ("AMD EPYC, AVX2, float32", "float32"),
    ("AMD EPYC, AVX512, bfloat16", "float32"),
    ("AMD EPYC, AVX512, bfloat16", "bfloat16"),
)
# Rows of README -> how the page calls the work; the peer where one work has several.
WORKS = {
    "soft prompt, 20 virtual tokens": ("soft_prompt, 20 virtual tokens, {}", ""),
    "soft prompt, 100 virtual tokens": ("soft_prompt, 100 virtual tokens, {}", ""),
    "prefix, 50 positions": ("prefix, 50 positions, {}", ""),
    "LoRA of rank 8, short rows": ("lora all-linear rank 8, short rows, {}", ""),
    "LoRA of rank 8, long rows": ("lora all-linear rank 8, long rows, {}", ""),
    "full fine-tuning": ("full, {}", ""),
    "measuring behind 8 demonstrations": (
        "measuring 200 rows with 8 demonstrations, {}",
        "lm-evaluation-harness",
    ),
    "answers among 77 labels": ("77-label classification of 500 rows, {}: the answers", ""),
}


def rows(text: str) -> list[list[str]]:
    """Cells of every line of a Markdown table."""
    lines = (line.strip() for line in text.splitlines())
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]


def measured(section: str, work: str, peer: str) -> float:
    """The ratio that the page has."""
    block = PAGE.split(f"<!-- {section} -->")[1].split(f"<!-- end of {section} -->")[0]
    found = [
        float(cells[4])
        for cells in rows(block)
        if len(cells) == 10 and cells[0].startswith(work) and cells[1].startswith(peer)
    ]
    assert len(found) == 1, (section, work)
    return found[0]


@pytest.mark.parametrize("work", WORKS)
def test_readme_tells_the_ratios_of_the_page(work: str) -> None:
    (told,) = [cells[2:] for cells in rows(README) if cells[0] == work]
    name, peer = WORKS[work]
    for (section, dtype), text in zip(COLUMNS, told, strict=True):
        ratio = measured(section, name.format(dtype), peer)
        digits = len(text.partition(".")[2])
        assert float(text) == pytest.approx(ratio, abs=0.5 * 10**-digits + 0.006), section
