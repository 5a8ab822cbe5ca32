"""Where images are kept: registries, Harbor, and what is in an image.

`server.py` talks to one server. On it are `registry.py`, the distribution API that every registry has, and `harbor.py`,
Harbor's own. `scans.py` judges, `project.py` sets a Harbor project up, `push.py` and `sbom.py` are for releases.
"""
