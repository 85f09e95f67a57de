"""What dtypes the frozen weights may have, by name; known without torch."""

from __future__ import annotations

from tunewise.errors import ConfigError

DTYPES = ("bfloat16", "float32")


def check_dtype(name: str) -> None:
    """Refuse a dtype that there is not.

    Args:
        name: "auto" or one of `DTYPES`.

    Raises:
        ConfigError: it is neither.
    """
    if name not in ("auto", *DTYPES):
        raise ConfigError(
            "unknown dtype",
            found=name,
            expected=f"auto or one of {', '.join(DTYPES)}",
            fix="--dtype auto",
        )
