"""The exceptions trafficzip raises.

    TrafficzipError
    ├── ConfigError              an argument or a combination of arguments is wrong; raised at construction
    ├── CorruptPayloadError      bytes do not decode; raised before anything they size is allocated
    ├── UnsupportedFormatError   an id or a version that this release does not know
    └── CollectiveError          ranks disagree, or one of them failed; raised on every rank that is alive

Every message says where, what was found and what was expected.
"""


class TrafficzipError(Exception):
    """Base of all errors raised by trafficzip."""


class ConfigError(TrafficzipError, ValueError):
    """An argument is out of range, or arguments do not fit together."""


class CorruptPayloadError(TrafficzipError, ValueError):
    """Encoded bytes are damaged, truncated, or not what their header says."""


class UnsupportedFormatError(TrafficzipError, ValueError):
    """Encoded bytes name a version, quantizer or codec that this release does not know."""


class CollectiveError(TrafficzipError, RuntimeError):
    """Ranks do not share one configuration, or a rank failed during an exchange."""
