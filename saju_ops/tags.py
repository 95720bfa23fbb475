"""The tags by which runs that belong together find each other: the schedule and the HTTP trigger write them, the
sensor `purge_after_archive` reads them. Imports nothing, so that the trigger does without Dagster.
"""

# The name of one clean-up, on its archive runs and on its purge; how many archive runs it has.
CLEANUP = "saju_ops/cleanup"
CLEANUP_RUNS = "saju_ops/cleanup_runs"
# What one call of the HTTP trigger started, and which of its runs this is.
TRIGGER = "saju_ops/trigger"
TRIGGER_PART = "saju_ops/trigger_part"
# Dagster's own: the first and last partition of a run over a range.
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
