"""Side by side with pt-archiver, pandas, LOAD DATA and INTO OUTFILE: `python -m benchmarks`."""
