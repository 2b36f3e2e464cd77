//! Bodies on their way through: counted, cut, slowed, damaged.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Any body, on its way.
pub(super) type Stream = UnsyncBoxBody<Bytes, io::Error>;

/// Pieces of a slowed body: small enough to be smooth at a few kilobytes per second.
const PIECE: usize = 1024;

/// A body that does what a rule says.
pub(super) struct Shaped {
    inner: Stream,
    /// What `inner` gave and was not passed on yet.
    rest: Bytes,
    passed: u64,
    count: Arc<AtomicU64>,
    pub(super) cut_at: Option<u64>,
    pub(super) flip_at: Option<u64>,
    pub(super) bytes_per_second: Option<u64>,
    begun: Option<Instant>,
    wait: Option<Pin<Box<Sleep>>>,
    flushed: bool,
}

impl Shaped {
    /// Passes on all of `inner` as it comes, counting.
    pub(super) fn new<B>(inner: B, count: &Arc<AtomicU64>) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        Self {
            inner: inner.map_err(io::Error::other).boxed_unsync(),
            rest: Bytes::new(),
            passed: 0,
            count: Arc::clone(count),
            cut_at: None,
            flip_at: None,
            bytes_per_second: None,
            begun: None,
            wait: None,
            flushed: false,
        }
    }

    /// Gives everybody below a chance to send what they have before the end comes.
    fn cut(&mut self, cx: &Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !std::mem::replace(&mut self.flushed, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the fault proxy"))))
    }

    /// How many bytes may go now, or when to ask again.
    fn allowance(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let until_cut = self.cut_at.map_or(usize::MAX, |at| usize::try_from(at - self.passed).unwrap_or(usize::MAX));
        let Some(rate) = self.bytes_per_second else { return Poll::Ready(until_cut) };
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let due = begun + Duration::from_secs_f64(self.passed as f64 / rate as f64);
        if due > Instant::now() {
            let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            std::task::ready!(wait.as_mut().poll(cx));
        }
        self.wait = None;
        Poll::Ready(until_cut.min(PIECE))
    }

    fn pass_on(&mut self, length: usize) -> Bytes {
        let mut piece = self.rest.split_to(length);
        if let Some(at) = self.flip_at.and_then(|at| at.checked_sub(self.passed)) {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if at < piece.len() {
                let mut damaged = piece.to_vec();
                damaged[at] ^= 0x10;
                piece = damaged.into();
            }
        }
        self.passed += length as u64;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        piece
    }
}

impl Body for Shaped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.cut_at.is_some_and(|at| this.passed >= at) {
            return this.cut(cx);
        }
        while this.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
            }
        }
        let allowed = std::task::ready!(this.allowance(cx)).min(this.rest.len());
        Poll::Ready(Some(Ok(Frame::data(this.pass_on(allowed)))))
    }

    fn is_end_stream(&self) -> bool {
        self.cut_at.is_none() && self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(inner.lower() + rest);
        hint
    }
}
