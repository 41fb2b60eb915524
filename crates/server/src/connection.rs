//! Listening, and one connection's life.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConnection;

use crate::guarded::{Guarded, Watched};
use crate::limits::{
    CONNECTION_BUFFER_BYTES, HEAD_BYTES_MAX, HEAD_TIMEOUT, SOCKET_BUFFER_BYTES, TLS_BUFFER_BYTES,
};
use crate::router::handle;
use crate::state::Shared;

/// After an accept that failed for lack of something, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every connection needs.
#[derive(Clone)]
pub struct Acceptor {
    /// The shared state.
    pub shared: Arc<Shared>,
    /// TLS, where it is wanted.
    pub tls: Option<TlsAcceptor>,
    /// Turns true when connections are to end after the response they are at.
    pub closing: watch::Receiver<bool>,
}

impl Acceptor {
    /// Accepts until it is closed, then lets the connections finish.
    pub async fn run(mut self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(self.shared.limits.connections));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                _ = self.closing.wait_for(|closing| *closing) => break,
                accepted = accept(&listener, &room) => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    let own = self.clone();
                    connections.spawn(async move {
                        own.shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
                        own.connection(stream, peer.ip()).await;
                        own.shared.metrics.connections.fetch_sub(1, Ordering::Relaxed);
                        drop(permit);
                    });
                }
                // Out of file handles, mostly: those that are open end some time.
                Err(error) => {
                    self.shared.log(&format!("a connection could not be accepted: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn connection(&self, stream: TcpStream, peer: IpAddr) {
        let socket = socket2::SockRef::from(&stream);
        // Where the system refuses, its own sizes do.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => self.speak(Watched::new(stream), peer).await,
            Some(tls) => {
                let small = |tls: &mut ServerConnection| {
                    tls.set_buffer_limit(Some(TLS_BUFFER_BYTES));
                };
                let accepted = tls.accept_with(Watched::new(stream), small);
                if let Ok(Ok(stream)) = timeout(HEAD_TIMEOUT, accepted).await {
                    self.speak(stream, peer).await;
                }
            }
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        peer: IpAddr,
    ) {
        let shared = Arc::clone(&self.shared);
        let service = service_fn(move |request| handle(Arc::clone(&shared), Some(peer), request));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(CONNECTION_BUFFER_BYTES)
            .max_header_size(HEAD_BYTES_MAX);
        let connection = builder.serve_connection(TokioIo::new(Guarded::new(stream)), service);
        let mut connection = pin!(connection);
        let mut closing = self.closing.clone();
        tokio::select! {
            // What a client did wrong was answered; that it left is no news.
            _ = connection.as_mut() => return,
            _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// Waits for room first: whoever comes beyond it waits in the kernel's queue.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> std::io::Result<Accepted> {
    let permit = Arc::clone(room).acquire_owned().await;
    let permit = permit.map_err(|_| std::io::Error::other("closed"))?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}
