"""One file that says how good a bundle is: for people who were not there."""
