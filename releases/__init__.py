"""The contract between the workflow that makes releases and the servers that use them."""
