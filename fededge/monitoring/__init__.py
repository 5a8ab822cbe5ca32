"""What a training tells those who watch it: metrics for Prometheus, logs for machines."""
