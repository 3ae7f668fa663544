"""Device meshes, the sharding table, and how batches reach devices."""
