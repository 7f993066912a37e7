"""Whatever makes a classifier: the generator, its ablations and the baselines; one file each."""
