"""`python -m fededge.serving`."""

from fededge.serving.process import main

main()
