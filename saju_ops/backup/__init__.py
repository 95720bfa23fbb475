"""Dumps of databases and snapshots of the vector store: made, proven restorable, kept for a time, restored."""
