"""Labelled image files of others: class folders, Parquet files and webdataset tars."""
