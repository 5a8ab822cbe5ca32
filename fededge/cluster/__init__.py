"""What FedEdge asks of Kubernetes: devices, which are nodes, and Jobs.

The package `kubernetes` is imported where it is used: a step that asks no cluster starts without it.
"""
