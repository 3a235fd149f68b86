//! A fault on the way from a host.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// What happens to the bytes of a host's first connection that sends so many.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Cut(u64),
    Flip(u64),
    Stall(u64),
}

/// A stream that one fault happens to.
pub struct Faulty {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    read: u64,
    /// Taken by the stream that it happens to.
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Faulty {
    pub fn new(
        stream: Box<dyn AsyncRead + Send + Unpin>,
        fault: &Arc<Mutex<Option<Fault>>>,
    ) -> Self {
        Self {
            stream,
            read: 0,
            fault: fault.clone(),
        }
    }
}

impl AsyncRead for Faulty {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let mut fault = this.fault.lock().unwrap();
        let (Some(Fault::Cut(at) | Fault::Flip(at) | Fault::Stall(at)), start) =
            (*fault, this.read)
        else {
            return Pin::new(&mut this.stream).poll_read(context, out);
        };
        match *fault {
            // Only the first stream to get there is cut; the next one reads on.
            Some(Fault::Cut(_)) if start >= at => {
                *fault = None;
                return Poll::Ready(Ok(()));
            }
            Some(Fault::Stall(_)) if start >= at => return Poll::Pending,
            _ => {}
        }
        let before = out.filled().len();
        let most = usize::try_from((at - start.min(at)).max(1))
            .unwrap()
            .min(out.remaining());
        let mut room = ReadBuf::new(out.initialize_unfilled_to(most));
        let poll = Pin::new(&mut this.stream).poll_read(context, &mut room);
        let got = room.filled().len();
        out.advance(got);
        if let (Some(Fault::Flip(_)), true) = (*fault, got > 0 && start == at) {
            out.filled_mut()[before] ^= 1;
            *fault = None;
        }
        this.read += got as u64;
        poll
    }
}
