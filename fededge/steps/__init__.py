"""The programs in the containers: parse, load, compute, save. One module for each component, by its name.

    distribute_model ─► train_clients (one for each batch) ─► aggregate_updates ─► evaluate_model ─► version_model

A step takes strings and numbers, and finds all else in the store. Run again, it finds what it did before and goes on.
"""
