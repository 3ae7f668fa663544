"""Parallelism: device meshes, the sharding table, and the transfer of batches to devices."""
