"""A DNS server on loopback that answers A records from a dictionary."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class _Answering(asyncio.DatagramProtocol):
    def __init__(self, records: dict[str, list[str]]) -> None:
        self._records = records

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name
        answer = dns.message.make_response(query)
        addresses = self._records.get(name.to_text(omit_final_dot=True))
        if addresses is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            answer.answer.append(dns.rrset.from_text_list(name, 1, "IN", "A", addresses))
        self._transport.sendto(answer.to_wire(), address)


@asynccontextmanager
async def dns_server(
    records: dict[str, list[str]],
) -> AsyncIterator[tuple[str, dict[str, list[str]]]]:
    """Serve `records`, which may be changed at any time; answers `ip:port` and the records."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Answering(records), local_addr=("127.0.0.1", 0)
    )
    host, port = transport.get_extra_info("sockname")
    try:
        yield f"{host}:{port}", records
    finally:
        transport.close()
