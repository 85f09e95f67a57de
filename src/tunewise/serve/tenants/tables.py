"""The tables of tenants, keys and usage. Their history is in `migrations`; a test holds the two
together.

    tenants     who there is, and their limits
    api_keys    what opens the door for whom: hashes, never keys
    usage       what was used, by day, tenant and adaptation

Times are seconds since 1970, UTC.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

TENANTS = sa.Table(
    "tenants",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("tokens_per_minute", sa.Integer),
    sa.Column("tokens_per_day", sa.BigInteger),
    sa.Column("streams", sa.Integer),
    sa.Column("weight", sa.Float, nullable=False, default=1.0),
)
KEYS = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.name"), nullable=False, index=True),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("hashed", sa.String(200), nullable=False),
    sa.Column("grants", sa.JSON, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
)
USAGE = sa.Table(
    "usage",
    METADATA,
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("adaptation", sa.String(200), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
)
