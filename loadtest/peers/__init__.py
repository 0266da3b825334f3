"""`make bench-peers`: the faiss server beside other systems that search vectors."""
