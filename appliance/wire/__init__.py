"""The protocol between peers: TL codec, frames, connection (sans-I/O), extensions, and the asyncio transport.

Bytes come in from the network and typed messages go out, and the other way round (protocol specification, section 1).
"""
