"""One small web page for engineers: what a user is answered, by which release, and how fast.

It reads the public gRPC APIs and nothing else. It has no authentication of its own and shows any
user's history to whoever reaches it; so it listens on 127.0.0.1 unless told otherwise.
"""
