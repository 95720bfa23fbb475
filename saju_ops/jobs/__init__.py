"""The jobs. Only these change production data, and each takes dry_run, true by hand."""
