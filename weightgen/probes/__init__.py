"""Classifiers fitted to all images of a training set; one file each."""
