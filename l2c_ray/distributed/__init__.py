"""Ray: connecting to a cluster, learning on its workers, sampling on them, and the whole job."""
