"""Ticks of the alert sensor one after another, in a process that a test kills. Arguments: instance folder, pause.

As the daemon does, it keeps the cursor after a tick that didn't fail, and calls that failed ticks off.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import dagster as dg

from saju_ops.alerts import deliver, slack
from saju_ops.definitions import defs


def main(folder: Path, pause: float) -> None:
    slack.RETRY_PAUSE = 0.01
    # A test's outage lasts seconds.
    deliver.FIRST_PAUSE, deliver.LONGEST_PAUSE = 0.5, 2.0
    definitions = defs()
    instance = dg.DagsterInstance.local_temp(str(folder))
    sensor = next(s for s in definitions.sensors or [] if s.name == "alerts")
    assert isinstance(sensor, dg.SensorDefinition)
    kept = folder / "cursor"
    while True:
        cursor = kept.read_text() if kept.exists() else None
        with dg.build_sensor_context(instance=instance, cursor=cursor, definitions=definitions) as context:
            try:
                result = sensor(context)
            except Exception as error:
                print(f"tick failed: {error}", flush=True)
            else:
                assert isinstance(result, dg.SensorResult)
                new = kept.with_suffix(".new")
                new.write_text(result.cursor or "")
                new.replace(kept)
                print(f"tick: {result.skip_reason}", flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
