"""The page of the serving benchmark, from what was measured."""

from __future__ import annotations

import statistics
from typing import Any


def targets(own: str) -> list[tuple[str, str, str, float]]:
    """What is compared: the first's rate over the second's must reach the third.

    Args:
        own: the machine's own dtype.
    """
    mixed, alone = f"mixed, {own}", f"base alone, {own}"
    found = [
        ("mixed adaptations, 16 streams, of the base alone", mixed, alone, 0.85),
        (
            "the same, of PEFT attached for each request",
            mixed,
            f"attached for each request, {own}",
            10.0,
        ),
        (
            "LoRAs only, of PEFT's mixed batch",
            f"LoRA only, {own}",
            f"LoRA only, PEFT's mixed batch, {own}",
            2.0,
        ),
    ]
    for dtype in dict.fromkeys((own, "float32")):
        found += [
            (
                f"base alone, 16 streams, of generate, {dtype}",
                f"base alone, {dtype}",
                f"generate, {dtype}",
                1.0,
            ),
            (
                f"base alone, 1 stream, of generate, {dtype}",
                f"one stream, {dtype}",
                f"one stream, generate, {dtype}",
                1.0,
            ),
        ]
    rounded = "one stream, 8-bit weights"
    found += [
        (
            f"1 stream with 8-bit weights, of generate in {dtype}",
            rounded,
            f"one stream, generate, {dtype}",
            least,
        )
        for dtype, least in (("bfloat16", 3.0), ("float32", 1.0))
    ]
    found.append(
        (
            f"16 streams with 8-bit weights, of generate in {own}",
            "base alone, 8-bit weights",
            f"generate, {own}",
            1.0,
        )
    )
    return found


def block(found: dict[str, Any]) -> str:
    """What one kind of machine measured, as Markdown."""
    options = found["options"]
    lines = [
        f"{found['date']} UTC, load average {found['load_before']:.1f} before and "
        f"{found['load_after']:.1f} after: a machine that does other work too has less memory",
        "bandwidth to give, which slows single streams most.",
        "",
        *(f"- {line}" for line in found["machine"]),
        f"- {options['adaptations']} adaptations of the default base, a quarter each of text, "
        "virtual tokens, keys and values, and LoRA of rank 8 on all linear layers;",
        f"  {options['requests']} requests of {options['tokens']} new tokens (the end token is "
        f"passed over), {options['repeats']} turns after one to warm up",
        "",
        "| work | is | must reach | reached |",
        "| --- | ---: | ---: | --- |",
        *(_target(found["rates"], *target) for target in targets(found["own"])),
        *_small_targets(found["small"]),
        "",
        "| side | tokens a second, median (least to largest) |",
        "| --- | ---: |",
        *(
            f"| {name} | {statistics.median(own):.0f} ({min(own):.0f} to {max(own):.0f}) |"
            for name, own in found["rates"].items()
        ),
        "",
        *_single(found["small"]),
    ]
    return "\n".join(lines)


def _target(rates: dict[str, list[float]], name: str, one: str, other: str, least: float) -> str:
    # Turn by turn, so that what the machine did meanwhile stands on both sides.
    ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
    ratio = statistics.median(ratios)
    shown = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {name} | {shown} | {least:g} | {'yes' if ratio >= least else 'no'} |"


def _small_targets(small: dict[str, Any]) -> list[str]:
    first = small["first_token_ms"]
    ratio = first["sent"] / first["warm"]
    rows = [
        (
            f"first token of a {first['tokens']}-token prompt, warm, of sending it",
            f"{ratio:.1f} times less",
            "5 times less",
            ratio >= 5,
        )
    ]
    for key, name, most in (
        ("in_memory_ms", "switch in memory adds", 1.0),
        ("from_disk_ms", "switch from disk adds", 50.0),
        ("from_disk_kept_ms", "switch from disk with a kept prefix adds", 50.0),
    ):
        rows += [
            (f"{name}, {kind}", f"{value:.2f} ms", f"{most:g} ms", value < most)
            for kind, value in small[key].items()
        ]
    return [f"| {a} | {b} | {c} | {'yes' if d else 'no'} |" for a, b, c, d in rows]


def _single(small: dict[str, Any]) -> list[str]:
    many, int8 = small["many"], small["int8"]
    sizes = ", ".join(f"{kind} {size:,}" for kind, size in small["bytes"].items())
    return [
        f"**Memory.** Bytes of one adaptation, with the keys and values of its prefix: {sizes}.",
        f"{many['named']:,} adaptations of virtual tokens, named one after another within",
        f"{many['budget'] / 2**20:.0f} MiB: {many['resident']} resident, "
        f"{many['resident_bytes'] / 2**20:.1f} MiB by the engine's count, the process grew by",
        f"{many['grown_bytes'] / 2**20:.0f} MiB; {many['each_ms']:.2f} ms each.",
        "",
        f"**8-bit weights.** Of {int8['answers']} greedy answers of 24 tokens, "
        f"{100 * int8['first']:.0f}% begin with the token of float32,",
        f"{100 * int8['whole']:.0f}% are the same to the end; the first difference comes after",
        f"{int8['agreed_tokens']:.1f} tokens on average. They are off unless asked for.",
    ]
