"""How long a server takes to answer messages, by the segments that pass a network device.

The time in the client's program is not in it. The kernel's delivery of the message to the server's socket is: on loopback it
runs on the client's core.
"""

import ctypes
import socket
import struct
import threading

# include/uapi/asm-generic/socket.h, include/uapi/linux/if_ether.h
SO_RCVBUFFORCE, SO_ATTACH_FILTER, SO_TIMESTAMPNS, ETH_P_ALL = 33, 26, 35, 3
# Where the IPv4 header, the TCP header and the payload begin, in an Ethernet frame without VLAN tag and without options.
IP, TCP, HEADERS = 14, 34, 54
BUFFER = 64 << 20
# struct tpacket_stats of PACKET_STATISTICS: packets, and those of them that were dropped.
SOL_PACKET, PACKET_STATISTICS = 263, 6


def filter_of(address):
    """A classic BPF program that takes the first bytes of IPv4 TCP segments from and to one address."""
    is_ip, is_tcp, source, destination = (0x28, 0, 0, 12), (0x30, 0, 0, 23), (0x20, 0, 0, 26), (0x20, 0, 0, 30)
    (wanted,) = struct.unpack("!I", address)
    code = [is_ip, (0x15, 0, 7, 0x800), is_tcp, (0x15, 0, 5, 6), source, (0x15, 2, 0, wanted)]
    code += [destination, (0x15, 0, 1, wanted), (0x06, 0, 0, 128), (0x06, 0, 0, 0)]
    return b"".join(struct.pack("HBBI", *step) for step in code)


class Answers:
    """The messages of clients with one IPv4 address, of a segment each, and a server's answers, on a device."""

    def __init__(self, device, client):
        self.client = socket.inet_aton(client)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        code = ctypes.create_string_buffer(filter_of(self.client))
        program = struct.pack("HxxxxxxP", len(filter_of(self.client)) // 8, ctypes.addressof(code))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self.socket.bind((device, ETH_P_ALL))
        self.asked, self.took = {}, []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while True:
            data, (stamp, *_), _, (_, _, way, *_) = self.socket.recvmsg(128, 64)
            # Loopback shows each packet twice: as it goes out, and as it comes in.
            if way != socket.PACKET_OUTGOING or len(data) < HEADERS:
                continue
            (whole,) = struct.unpack_from("!H", data, IP + 2)
            if whole <= TCP - IP + (data[TCP + 12] >> 4) * 4:
                continue
            seconds, nanoseconds = struct.unpack("qq", stamp[2])
            now = seconds + nanoseconds / 1e9
            ports, back = data[TCP : TCP + 4], data[TCP + 2 : TCP + 4] + data[TCP : TCP + 2]
            if data[IP + 12 : IP + 16] == self.client:
                # A message that is sent again counts from its first segment.
                self.asked.setdefault(ports, now)
            elif back in self.asked:
                asked = self.asked.pop(back)
                self.took.append((asked, now - asked))

    def between(self, begin, end):
        """How long the answers took to messages that were first sent between these times, in seconds, the shortest first."""
        dropped = struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        assert dropped == 0, f"{dropped} packets were not seen"
        took, self.took = self.took, []
        return sorted(seconds for asked, seconds in took if begin <= asked < end)
