"""The paper's tables on our data: variants by seeds, what is measured of each, and the report on all."""
