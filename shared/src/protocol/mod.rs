//! The wire grammars: bytes to packets and back. No state, no I/O.
