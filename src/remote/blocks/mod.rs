//! Write operations that go to a host in blocks, through the shell of its account: compressed where that pays, and over
//! several channels where one is too narrow.
//!
//! ```text
//! channel 0  --blocks 0, K, 2K …-->  cat > pipe 0  \
//! channel 1  --blocks 1, K+1 …---->  cat > pipe 1   }  head | zstd -dc  |  nix-store --serve --write  --replies-->
//! …                                                /
//! block = ( "z" | "r" ) SP length LF, then so many bytes: "z" a frame of zstd's, "r" as they are
//! ```
//!
//! The content of all blocks in their order is what a serve connection takes: hello, then operations. `zstd -dc` passes
//! nothing on before it has much or its input ends, so each block is a frame of its own, and acknowledgements come when the
//! block with the end of a path has come. The hello is written before the host has said its own: another connection to the
//! same host knows its version.
//!
//! With one channel only (K = 0) blocks come from its own stdin. The pipes have no names any more when the host tells of them:
//! whoever knows the process that holds them, and is the same user, opens them in `/proc`. So nothing is left at the host
//! whatever is killed. `head` must not read more than it passes on, which is tried first.

mod encoder;
mod open;
mod writer;

pub use encoder::Compress;
pub use open::{BlockConnection, BlockOptions, open_blocks};
pub use writer::{BlockWriter, SentBlock};
