"""The partitioned table on each engine that has partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops_tests.schema.partitions.scene import PartitionScene


@pytest.fixture(params=["mysql", "mariadb"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> PartitionScene:
    url = request.getfixturevalue(f"{request.param}_url")
    return PartitionScene(url, tmp_path / "backups").create()
