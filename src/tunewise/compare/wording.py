"""Numbers as people read them: scores in points of 100, sizes, counts, times, probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from tunewise.compare.contract import Score


def points(value: float) -> str:
    """A score between 0 and 1 in points of 100: 0.921 -> "92.1"."""
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text


def score_text(score: Score) -> str:
    """Value and interval: "92.1 (90.2 to 93.8)"."""
    return f"{points(score.value)} ({points(score.low)} to {points(score.high)})"


def p_text(value: float) -> str:
    """A p-value: "p < 0.001" or "p = 0.034"."""
    return (
        "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"
    )


def size_text(size: float) -> str:
    """Bytes in decimal units: 46080 -> "46 kB"."""
    return _scaled(size, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")), "bytes")


def count_text(count: float) -> str:
    """A count: 2400000 -> "2.4 million", 12000 -> "12,000"."""
    return _scaled(count, ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")), "").strip()


def flops_text(flops: float) -> str:
    """Floating-point operations with an SI letter: 3.1e13 -> "31 TFLOP"."""
    steps = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
    return _scaled(flops, steps, "FLOP") if flops > 0 else "0"


def seconds_text(seconds: float) -> str:
    """A time: "0.4 s", "37 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def duration(seconds: float) -> str:
    """Seconds as a person says them: "0.4 s", "42 s", "12 min", "3.5 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def tokens_text(tokens: float) -> str:
    """Tokens before a request's own text: "27" or "27.4"."""
    return f"{tokens:,.0f}" if tokens >= 100 or tokens == round(tokens) else f"{tokens:.1f}"


def names_text(names: Sequence[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 row", "1,200 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _scaled(value: float, steps: Sequence[tuple[float, str]], unit: str) -> str:
    """Two or three significant digits in the first unit that fits."""
    for step, name in steps:
        if value >= step:
            scaled = value / step
            return f"{scaled:.1f} {name}" if scaled < 10 else f"{scaled:,.0f} {name}"
    return f"{value:,.0f} {unit}"
