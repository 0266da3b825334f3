"""`make bench`: this stack against its plain chain, a floor without RPC, and yardsticks."""
