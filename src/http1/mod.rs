//! HTTP/1.1 as it goes over a socket, towards visitors and towards sites: heads that have one
//! reading, bodies that have one end (RFC 9112), and the bytes they travel in.
//!
//! Where hyper, like every general library, repairs what it can, a gateway that judges requests must
//! not: of a length and a chunked coding the library drops the length, and by then nobody can tell.
//! So heads and frames are read here, once, strictly, and written anew.
//!
//! [`head`], `framing` and `chunk` are pure: bytes in, meaning out. [`Wire`] joins them to a
//! socket, [`Sender`] writes a message to one; a [`Pipe`] carries a long body past us from one plain
//! socket to another. Both are polled by whoever handles the exchange: no
//! task, no channel and no lock is between two sockets.

mod chunk;
mod framing;
pub mod head;
mod incoming;
mod interim;
mod patience;
mod pipe;
#[cfg(any(fuzzing, test))]
pub mod reading;
mod sender;
mod stream;
mod wire;

pub use framing::{Fault, Framing};
pub use incoming::Incoming;
pub use interim::Interim;
pub use patience::Patience;
pub use pipe::Pipe;
pub use sender::{Broken, Sender, Source};
pub use stream::{Socket, Stream};
pub use wire::{Arena, NoHead, Wire};
