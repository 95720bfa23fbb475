"""What hangs in the queues: expired jobs, expired sessions, stale analysis jobs. No Dagster in here."""
