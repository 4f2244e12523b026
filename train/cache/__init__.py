"""What the frozen part of a network says of a data set, computed once and kept beside it."""
