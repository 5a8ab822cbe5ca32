"""Puts a version behind a server on a cluster: as a canary first, then for all requests, or not at all."""
