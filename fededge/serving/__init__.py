"""Answers questions with a version, straight from the store, by the Open Inference Protocol (v2).

Runs on the images `serving` and `serving-tensorflow`, in MLServer: `python -m fededge.serving`.
"""
