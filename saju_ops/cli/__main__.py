"""`python -m saju_ops.cli`."""

from saju_ops.cli.main import main

main()
