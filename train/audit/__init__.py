"""Which labels of a data set are wrong."""
