//! A socket that waits for its client within limits: who doesn't read what was asked for is cut off.
//!
//! Nothing above it would notice. While a client's window is shut nobody asks a body for more, so that neither the end of a
//! stream's life nor the service's own end is looked at; and the handle, the connection's place and the memory stay taken.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// A client that reads slowly has a second more for so many bytes.
const BYTES_A_SECOND: u64 = 1 << 10;

/// A socket whose writes don't wait for ever.
pub struct Socket<S> {
    inner: S,
    timeout: Duration,
    /// Since a write had to wait, until one was taken whole.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Socket<S> {
    /// Around a socket.
    pub const fn new(inner: S, timeout: Duration) -> Self {
        Self {
            inner,
            timeout,
            waiting: None,
        }
    }

    /// What a write came to that was offered so many bytes.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<std::io::Result<usize>>,
        offered: usize,
    ) -> Poll<std::io::Result<usize>> {
        match written {
            Poll::Ready(Ok(taken)) if taken < offered => {
                if let Some(waiting) = &mut self.waiting {
                    let more = Duration::from_millis(taken as u64 * 1_000 / BYTES_A_SECOND);
                    let until = waiting.deadline() + more;
                    waiting.as_mut().reset(until);
                }
                written
            }
            Poll::Ready(_) => {
                self.waiting = None;
                written
            }
            Poll::Pending => {
                let until = Instant::now() + self.timeout;
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(until)));
                match Future::poll(waiting.as_mut(), cx) {
                    Poll::Ready(()) => Poll::Ready(Err(Error::new(
                        ErrorKind::TimedOut,
                        "the client doesn't read what it asked for",
                    ))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(cx, written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, pieces);
        let offered = pieces.iter().map(|piece| piece.len()).sum();
        self.wrote(cx, written, offered)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn who_reads_nothing_is_cut_off() {
        run(async {
            let (near, _far) = duplex(64);
            let mut socket = Socket::new(near, TIMEOUT);
            let began = Instant::now();
            let cause = socket.write_all(&[0; 1_000]).await.unwrap_err();
            assert_eq!(cause.kind(), ErrorKind::TimedOut);
            assert!(began.elapsed() >= TIMEOUT);
        });
    }

    #[test]
    fn who_reads_slowly_has_more_time_and_who_reads_all_begins_anew() {
        run(async {
            let (near, mut far) = duplex(256);
            let mut socket = Socket::new(near, TIMEOUT);
            let began = Instant::now();
            // 16 pieces of 256 bytes, a quarter of a second each by the rate; read in four times the time-out.
            let reading = async {
                let mut piece = [0; 256];
                for _ in 0..16 {
                    tokio::time::sleep(TIMEOUT / 4).await;
                    far.read_exact(&mut piece).await.unwrap();
                }
                far
            };
            let (written, _far) = tokio::join!(socket.write_all(&[0; 4_096]), reading);
            written.unwrap();
            assert!(began.elapsed() > 3 * TIMEOUT);
            assert!(socket.waiting.is_none(), "what was taken whole is forgotten");
            assert!(socket.write_all(&[0; 257]).await.is_err());
        });
    }
}
