"""Run by alembic: brings the connection it is handed to the revision that is asked for."""

from __future__ import annotations

from alembic import context

from tunewise.serve.tenants.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=False,  # whoever opened the connection opened the transaction as well
)
context.run_migrations()
