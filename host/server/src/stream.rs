//! A client's connection: enforces the minimum rate, and detects disconnection.

use super::ServerOptions;
use super::idle::{HeadTimer, IdleTracked, Phases};
use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

/// Interval of checking whether a connection with unread bytes is still open.
const DISCONNECT_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum bytes of a body that are discarded after the response is sent, before the connection is
/// closed.
const LINGER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Maximum bytes of a body, and time, that are spent on discarding it before the response is sent,
/// so that the connection can be kept. A longer or slower body closes the connection.
const REST_BYTES_MAX: u64 = 256 * 1024;
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// Tracks how far a peer is behind, as a time credit. The credit decreases while the server waits
/// for the peer, and increases with the bytes that it transfers and with the time in which the
/// server does not wait for it.
#[derive(Debug)]
pub(super) struct RateCredit {
    /// Maximum credit.
    grace: Duration,
    /// Bytes that add one second of credit.
    rate: usize,
    in_hand: Duration,
    since: Instant,
    waiting: bool,
}

impl RateCredit {
    pub(super) fn new(grace: Duration, rate: usize, now: Instant) -> RateCredit {
        RateCredit {
            grace,
            rate: rate.max(1),
            in_hand: grace,
            since: now,
            waiting: false,
        }
    }

    /// When the credit of a peer runs out, if the server waits for it from now on.
    pub(super) fn wait(&mut self, now: Instant) -> Instant {
        if !self.waiting {
            let rest = now.saturating_duration_since(self.since);
            self.in_hand = self.in_hand.saturating_add(rest).min(self.grace);
            self.since = now;
            self.waiting = true;
        }
        self.since + self.in_hand
    }

    /// Records that the peer has transferred bytes.
    pub(super) fn moved(&mut self, bytes: usize, now: Instant) {
        if self.waiting {
            let waited = now.saturating_duration_since(self.since);
            self.in_hand = self.in_hand.saturating_sub(waited);
            self.since = now;
            self.waiting = false;
        }
        let worth = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.in_hand = self.in_hand.saturating_add(worth).min(self.grace);
    }
}

/// A client's connection. Writing fails once the client has read too slowly for too long.
pub(super) struct Stream {
    socket: Arc<Socket>,
    pace: RateCredit,
    /// Created when the server first waits for the client.
    timer: Option<Pin<Box<Sleep>>>,
    /// Runs while no request is being handled.
    head: HeadTimer,
    body_timeout: Duration,
    /// Set once the server's side is closed.
    linger: Option<Linger>,
}

struct Linger {
    timer: Pin<Box<Sleep>>,
    discarded: usize,
}

struct Socket {
    tcp: TcpStream,
    /// Whether the last response was sent before the request's body was read to its end.
    unread: AtomicBool,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, options: &ServerOptions) -> Stream {
        Stream {
            socket: Arc::new(Socket {
                tcp,
                unread: AtomicBool::new(false),
            }),
            pace: RateCredit::new(options.write_timeout, options.min_rate, Instant::now()),
            timer: None,
            head: HeadTimer::new(options.head_timeout, options.idle_timeout),
            body_timeout: options.body_timeout,
            linger: None,
        }
    }

    /// The client of this connection.
    pub(super) fn peer(&self) -> Peer {
        Peer {
            socket: Arc::clone(&self.socket),
            phases: self.head.phases(),
        }
    }

    fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.socket.tcp.poll_write_ready(context)?.is_pending() {
                let until = self.pace.wait(Instant::now());
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(sleep_until(until)));
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                ready!(timer.as_mut().poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            match write(&self.socket.tcp) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(bytes) => {
                    self.pace.moved(bytes, Instant::now());
                    self.head.wrote();
                    return Poll::Ready(Ok(bytes));
                }
            }
        }
    }

    /// Reads and discards until the client closes its side, within the time and byte limits of a
    /// body. Closing a socket with unread bytes resets the connection, and a client that is still
    /// sending its body would lose the response.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            timer: Box::pin(sleep(self.body_timeout)),
            discarded: 0,
        });
        let mut part = [0; 8 * 1024];
        while linger.discarded < LINGER_BYTES_MAX
            && linger.timer.as_mut().poll(context).is_pending()
        {
            ready!(self.socket.tcp.poll_read_ready(context))?;
            match self.socket.tcp.try_read(&mut part) {
                Ok(0) => break,
                Ok(len) => linger.discarded += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.socket.tcp.poll_read_ready(context)?.is_pending() {
                ready!(self.head.poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            match self.socket.tcp.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    self.head.read();
                    return Poll::Ready(read.map(drop));
                }
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_write_with(context, |tcp| tcp.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_write_with(context, |tcp| tcp.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            socket2::SockRef::from(&self.socket.tcp).shutdown(Shutdown::Write)?;
            if !self.socket.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_linger(context)
    }
}

/// The client of a request, while its connection is served.
#[derive(Clone)]
pub(super) struct Peer {
    socket: Arc<Socket>,
    phases: Phases,
}

impl Peer {
    /// Wraps the body of the client's next request. Also returns a handle to its unread rest.
    pub(super) fn body<B: Body>(&self, inner: B) -> (RequestBody<B>, UnreadBody<B>) {
        self.phases.request();
        self.socket.unread.store(false, Ordering::Relaxed);
        let rest = Arc::new(Mutex::new(None));
        let sent = RequestBody {
            inner: Some(inner),
            ended: false,
            peer: self.clone(),
            rest: Arc::clone(&rest),
        };
        let peer = self.clone();
        (sent, UnreadBody { rest, peer })
    }

    /// Wraps the body of the response to that request.
    pub(super) fn answer<B: Body>(&self, inner: B) -> IdleTracked<B> {
        self.phases.answer(inner)
    }

    /// Waits until the client has closed its side, or the whole connection.
    pub(super) async fn disconnected(self) {
        loop {
            match self.socket.tcp.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {}
                Ok(_) | Err(_) => return,
            }
            // It has already sent the next request, or what the connection has read is not recorded
            // yet.
            sleep(DISCONNECT_CHECK_INTERVAL).await;
        }
    }
}

/// A request's body, which marks its connection if it is dropped before its end.
pub(super) struct RequestBody<B: Body> {
    /// `Some` until it is dropped.
    inner: Option<B>,
    ended: bool,
    peer: Peer,
    rest: Arc<Mutex<Option<B>>>,
}

/// The rest of a request's body that its handler has not read.
pub(super) struct UnreadBody<B> {
    rest: Arc<Mutex<Option<B>>>,
    peer: Peer,
}

impl<B: Body + Unpin> UnreadBody<B> {
    /// Reads the body to its end, within byte and time limits. Returns whether the connection can
    /// be reused.
    pub(super) async fn discard(self) -> bool {
        let Some(body) = self.rest.lock().take() else {
            // It was read to its end, or the response is still reading it.
            return true;
        };
        let ended = timeout(REST_TIMEOUT, ends(body)).await.unwrap_or(false);
        self.peer.socket.unread.store(!ended, Ordering::Relaxed);
        ended
    }

    /// Leaves the rest unread. Returns whether there was none.
    pub(super) fn abandon(self) -> bool {
        self.rest.lock().take().is_none()
    }
}

/// Whether the body ends within the bytes that may be discarded.
async fn ends<B: Body + Unpin>(mut body: B) -> bool {
    let mut discarded = 0;
    while discarded + body.size_hint().lower() <= REST_BYTES_MAX {
        match body.frame().await {
            None => return true,
            Some(Ok(frame)) => {
                let data = frame.into_data().ok();
                discarded += data.map_or(0, |data| data.remaining() as u64);
            }
            Some(Err(_)) => return false,
        }
    }
    false
}

impl<B: Body + Unpin> Body for RequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(inner).poll_frame(context));
        self.ended = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B: Body> Drop for RequestBody<B> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take()
            && !self.ended
            && !inner.is_end_stream()
        {
            self.peer.socket.unread.store(true, Ordering::Relaxed);
            *self.rest.lock() = Some(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn peer_below_the_minimum_rate_times_out() {
        let start = Instant::now();
        let end = |bytes: usize, each: Duration| {
            let mut pace = RateCredit::new(30 * SECOND, 1024, start);
            let mut now = start;
            for _ in 0..1_000 {
                let until = pace.wait(now);
                if until < now + each {
                    return Some(until - start);
                }
                now += each;
                pace.moved(bytes, now);
            }
            None
        };
        assert_eq!(end(8 * 1024, 8 * SECOND), None);
        assert_eq!(end(1024 * 1024, 29 * SECOND), None);
        // 512 bytes every 8 s add half a second each.
        let cut = end(512, 8 * SECOND).unwrap();
        assert!(cut > 30 * SECOND && cut < 35 * SECOND, "{cut:?}");
        assert_eq!(end(0, 31 * SECOND), Some(30 * SECOND));
    }

    #[test]
    fn time_without_a_waiter_is_not_charged() {
        let start = Instant::now();
        let mut pace = RateCredit::new(30 * SECOND, 1024, start);
        assert_eq!(pace.wait(start), start + 30 * SECOND);
        pace.moved(1024, start + 20 * SECOND);
        let later = start + 25 * SECOND;
        assert_eq!(pace.wait(later), later + 16 * SECOND);
        assert_eq!(pace.wait(later + SECOND), later + 16 * SECOND);
        pace.moved(1 << 30, later + SECOND);
        assert_eq!(pace.wait(later + SECOND), later + 31 * SECOND);
    }
}
