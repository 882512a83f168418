"""Which draft a workload takes: what stands behind each, who contends, and what it brings."""
