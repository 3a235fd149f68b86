//! The binary: runtime, signals, exit code; nothing else.

fn main() {}
