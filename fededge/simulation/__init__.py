"""Many rounds in one process tree: the steps of the pipeline, without a pod or a process for each.

    rounds ─► a worker for each CPU: steps.worker ─► the same steps, core, learners and store as a pipeline's

Use it for research on one machine. No part of it computes anything: `rounds` says which step comes next, `workers`
has it done.
"""
