"""Raw data sets to Parquet shards: one file per data set, one writer for all of them."""
