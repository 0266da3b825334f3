"""The online API: a user's history becomes a vector, the vector becomes candidates."""
