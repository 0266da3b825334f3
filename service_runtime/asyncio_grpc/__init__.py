"""gRPC over HTTP/2 on the event loop alone: no threads, and nothing that is not needed here.

`grpc.aio` hands every event of a call from a thread of gRPC's core to the event loop; most of the
time and the processor of an answer went there (docs/performance.md). This speaks the same protocol
(RFC 9113, RFC 7541 and gRPC's "gRPC over HTTP2") with handlers, status codes and errors of `grpc`.
"""
