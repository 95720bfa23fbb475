"""One file for each migration. docs/schema.md says how to add one."""
