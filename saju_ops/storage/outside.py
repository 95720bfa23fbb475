"""A restore never writes into a store of backups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from saju_ops.errors import Refused
from saju_ops.paths import _inside, _real

if TYPE_CHECKING:
    import sqlalchemy as sa

    from saju_ops.storage.open import Storage


def require_outside_stores(storage: Storage, url: sa.URL | str, option: str) -> None:
    """Raises Refused where a restore would go into a SQLite file in a store of backups: there files are deleted, and
    old copies of it would be among them."""
    import sqlalchemy as sa

    from saju_ops.database.connect import redacted
    from saju_ops.storage.local import LocalStorage

    parsed = sa.make_url(url)  # by the address: the database may not be there yet
    for store in storage.copies() if parsed.get_backend_name() == "sqlite" else ():
        if isinstance(store, LocalStorage) and _inside(_real(Path(str(parsed.database))), _real(store.root)):
            raise Refused(
                f"{redacted(parsed)} is inside the store {store.root}, where backups are. Nothing was touched; name"
                f" another place with {option}."
            )
