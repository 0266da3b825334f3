"""`make quality`: what the shipped defaults reach on data with published results."""
