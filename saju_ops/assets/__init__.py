"""The assets: what the archives hold. Materializing one never deletes or changes production data."""
