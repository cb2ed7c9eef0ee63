"""Labelled image files of others, in the three ways in which they are usually kept."""
