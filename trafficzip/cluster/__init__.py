"""Cluster benchmark: hosts made of network namespaces, or real ones, and what each method costs and saves there."""
