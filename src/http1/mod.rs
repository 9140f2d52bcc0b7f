//! HTTP/1.1 as it goes over a socket, towards visitors and towards sites: heads that have one
//! reading, bodies that have one end (RFC 9112), and the bytes they travel in.
//!
//! Where hyper, like every general library, repairs what it can, a gateway that judges requests must
//! not: of a length and a chunked coding the library drops the length, and by then nobody can tell.
//! So heads and frames are read here, once, strictly, and written anew.
//!
//! [`head`], `framing` and `chunk` are pure: bytes in, meaning out. [`Http1Connection`] joins them to a
//! socket, [`MessageWriter`] writes a message to one; a [`SplicePipe`] carries a long body past us from one plain
//! socket to another. Both are polled by whoever handles the exchange: no
//! task, no channel and no lock is between two sockets.

mod chunk;
mod decoder;
pub mod head;
mod incoming;
mod interim;
mod timer;
mod splice;
#[cfg(any(fuzzing, test))]
pub mod reading;
mod writer;
mod stream;
mod connection;

pub use connection::{BufferPool, Http1Connection, ReadHeadError};
pub use decoder::{BodyDecoder, BodyError, BodyStart};
pub use incoming::Incoming;
pub use interim::InterimResponses;
pub use splice::SplicePipe;
pub use stream::{Socket, Stream};
pub use timer::LazyTimer;
pub use writer::{MessageWriter, SpliceBody, WriteError};
