"""CRC-32 (ISO 3309) of bytes: by ISA-L where it is installed, which is ten times as fast, else by zlib."""

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
