//! The HTTP server: OpenAI's and Anthropic's protocols, a fair queue before one engine, the page.
//!
//! ```text
//! bytes -> framing -> hyper -> gate (host, origin, key) -> router -> json -> an endpoint in `api`
//!   endpoint -> prompt (template, tokens) -> queue -> worker (the engine's thread) -> events
//!   events -> reader (text, thought, calls) -> a protocol in `api` -> body
//! ```
//!
//! Threads: one for the engine, which owns it; one for all connections; a few for what takes
//! milliseconds (parsing, templates, grammars). A client who leaves drops its body, that drops its
//! ticket, and that takes its job out of the queue or stops it at the next layer.
#![forbid(unsafe_code)]

mod api;
mod calls;
mod config;
mod connection;
mod constraint;
mod embedding;
mod error;
#[cfg(test)]
mod forced_tests;
mod format;
mod framing;
mod gate;
mod generate;
mod guarded;
mod job;
mod json;
mod limits;
mod metrics;
mod model;
mod page;
mod pieces;
mod prompt;
mod queue;
mod reader;
#[cfg(test)]
mod reader_tests;
mod request;
mod router;
mod seats;
mod state;
mod stream;
mod system;
mod tide;
mod tls;
mod work;
mod worker;

use std::net::TcpListener;
use std::sync::Arc;

use lowtide_engine::Engine;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use config::{ApiKey, Config, check_exposure};
pub use error::{ApiError, ServeError};
pub use limits::Limits;
pub use system::{Walls, activated, confine};
pub use tls::Tls;
pub use worker::Loader;

use crate::connection::Acceptor;
use crate::limits::{LINGER, WRITE_TIMEOUT};
use crate::state::Shared;
use crate::worker::{Active, Worker};

/// A server that is ready to begin.
pub struct Server {
    /// Where it listens.
    pub listeners: Vec<TcpListener>,
    /// Settings.
    pub config: Config,
    /// Bounds.
    pub limits: Limits,
    /// Names of the models there are; the first is the default.
    pub models: Vec<String>,
    /// The model to begin with.
    pub first: Option<(String, Engine)>,
    /// Loads the others.
    pub loader: Box<Loader>,
}

/// Serves until `stop` is ready, then until every answer that was begun is delivered.
///
/// # Errors
/// [`ServeError`].
pub fn run(
    server: Server,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let system = |what| move |source| ServeError::System { what, source };
    let tls = server.config.tls.as_ref().map(|tls| tls.0.clone());
    let shared = Arc::new(Shared::new(server.config, server.limits, server.models));
    let active = match server.first {
        Some((name, engine)) => Some(
            Active::new(&name, engine, &shared)
                .map_err(|error| ServeError::Engine(error.to_string()))?,
        ),
        None => None,
    };
    let worker = Worker { shared: Arc::clone(&shared), active, loader: server.loader };
    let (ended, engine_ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("engine".to_owned());
    let thread = thread.spawn(move || {
        worker.run();
        // The server waits for this; where it is gone already, nobody does.
        let _ = ended.send(());
    });
    let thread = thread.map_err(system("start the engine's thread"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(system("start the reactor"))?;
    let served = runtime.block_on(serve(&shared, server.listeners, tls, stop, engine_ended, ready));
    runtime.shutdown_background();
    served?;
    thread.join().map_err(|_| ServeError::Engine("its thread failed".to_owned()))
}

async fn serve(
    shared: &Arc<Shared>,
    listeners: Vec<TcpListener>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    stop: impl Future<Output = ()>,
    mut engine_ended: oneshot::Receiver<()>,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let system = |source| ServeError::System { what: "listen", source };
    let (close, closing) = watch::channel(false);
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(system)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(system)?;
        let acceptor =
            Acceptor { shared: Arc::clone(shared), tls: tls.clone(), closing: closing.clone() };
        acceptors.spawn(acceptor.run(listener));
    }
    ready();
    system::notify_ready();
    tokio::select! {
        () = stop => {}
        _ = &mut engine_ended => return Err(ServeError::Engine("its thread ended".to_owned())),
    }
    shared.log("stopping: answers that were begun are finished, new ones are refused");
    system::notify_stopping();
    shared.stop();
    // Everything that was queued is answered; those that come now are told 503.
    let _ = engine_ended.await;
    close.send_replace(true);
    let all = async { while acceptors.join_next().await.is_some() {} };
    let _ = timeout(WRITE_TIMEOUT + LINGER, all).await;
    Ok(())
}

/// Ready at the first SIGTERM or SIGINT. Later ones change nothing here.
pub async fn terminated() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
