//! A pipe of the kernel, through which the bytes of a long body go from one socket to the other
//! without ever coming to us: splice(2). Between two plain TCP connections only.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};
use tokio::{io::Interest, net::TcpStream};

/// What a pipe holds. The system has a limit on what all pipes of a user hold
/// (`/proc/sys/fs/pipe-user-pages-soft`, 64 MiB as a rule), and then grants less.
const PIPE_SIZE: usize = 128 * 1024;
/// What it has to hold at the least: through a smaller one a body would go in so many steps that to
/// copy it costs less.
const MIN_PIPE_SIZE: usize = 64 * 1024;
/// Pipes of one thread; what is over that is copied. Each is two of the files that the process may
/// have open.
const MAX_PIPES: usize = 128;
/// Empty pipes that are kept for the next.
const SPARE_PIPES: usize = 8;
/// A body of which less than this is to come is copied: a pipe is four system calls to begin with.
pub const SPLICE_MIN_LEN: u64 = 128 * 1024;

/// The pipes of one thread.
#[derive(Debug, Default)]
pub struct PipePool {
    spare: RefCell<Vec<PipeFds>>,
    /// Lives as long as the pipes that are out, each of which counts itself here.
    out: Rc<()>,
    /// Whether the system, or what passes for one in a sandbox, cannot do it.
    useless: Cell<bool>,
}

#[derive(Debug)]
struct PipeFds {
    from: OwnedFd,
    to: OwnedFd,
}

/// A pipe in use by one message.
#[derive(Debug)]
pub struct SplicePipe {
    ends: PipeFds,
    /// Bytes in it.
    inside: usize,
    _counted: Rc<()>,
}

impl PipePool {
    /// An empty pipe, if the system and we have one left.
    pub fn take(&self) -> Option<SplicePipe> {
        if self.useless.get() || Rc::strong_count(&self.out) > MAX_PIPES {
            return None;
        }
        let ends = match self.spare.borrow_mut().pop() {
            Some(ends) => ends,
            None => PipeFds::new().ok()?,
        };
        Some(SplicePipe { ends, inside: 0, _counted: Rc::clone(&self.out) })
    }

    /// Notes what came of filling one: whether the socket cannot be read so, and then none can.
    pub fn disable_if_unsupported(&self, filled: &io::Result<usize>) -> bool {
        let cannot = [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported];
        let useless = filled.as_ref().is_err_and(|error| cannot.contains(&error.kind()));
        self.useless.set(self.useless.get() || useless);
        useless
    }

    /// Takes a pipe back. One with bytes in it, which were for somebody else, is closed.
    pub fn give_back(&self, pipe: SplicePipe) {
        let mut spare = self.spare.borrow_mut();
        if pipe.inside == 0 && spare.len() < SPARE_PIPES {
            spare.push(pipe.ends);
        }
    }
}

impl PipeFds {
    fn new() -> io::Result<Self> {
        let (from, to) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let granted = fcntl_setpipe_size(&to, PIPE_SIZE).or_else(|_| fcntl_getpipe_size(&to))?;
        if granted < MIN_PIPE_SIZE {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self { from, to })
    }
}

impl SplicePipe {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.inside == 0
    }

    /// Fills an empty pipe with at most so many bytes; how many came. None means that the other end
    /// has closed.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        let most = usize::try_from(most).unwrap_or(PIPE_SIZE).min(PIPE_SIZE);
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || moved(from, &self.ends.to, most)) {
                Ok(count) => {
                    self.inside = self.inside.saturating_add(count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Empties it, as far as the other end takes it; how many bytes went.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || moved(&self.ends.from, to, self.inside)) {
                Ok(count) => {
                    self.inside = self.inside.saturating_sub(count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn moved(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_and_a_closed_end_is_seen() {
        let (mut site, from) = pair().await;
        let (to, mut visitor) = pair().await;
        let pipes = PipePool::default();
        let mut pipe = pipes.take().unwrap();
        site.write_all(b"abcdef").await.unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from, 4)).await.unwrap(), 4);
        assert!(!pipe.is_empty());
        assert_eq!(poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap(), 4);
        assert!(pipe.is_empty());
        drop(site);
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from, 9)).await.unwrap(), 2);
        let mut got = [0; 4];
        visitor.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"abcd");
        pipes.give_back(pipe);
        assert_eq!(
            pipes.spare.borrow().len(),
            0,
            "two bytes are left in it, for that visitor alone"
        );
        let mut pipe = pipes.take().unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from, 9)).await.unwrap(), 0);
        pipes.give_back(pipe);
        assert_eq!(pipes.spare.borrow().len(), 1);
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let pipes = PipePool::default();
        let mut out: Vec<SplicePipe> = (0..MAX_PIPES).map(|_| pipes.take().unwrap()).collect();
        assert!(pipes.take().is_none());
        out.pop();
        assert!(pipes.take().is_some(), "one that was dropped counts no more");
    }
}
