"""Numbers of a running tunnel, served over HTTP for Prometheus and its like."""
