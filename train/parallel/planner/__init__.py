"""The planner: what a training job needs on a cluster, from arithmetic alone."""
