"""The sensors: what follows from what happened."""
