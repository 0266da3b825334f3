"""Open-loop latency measurement of a running stack, and the comparison of whole stacks."""
