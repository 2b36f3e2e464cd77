//! `GET /metrics` in the text format of OpenMetrics.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::exposition::text;
use super::status::Status;

/// Connections served at once.
const CONNECTIONS: usize = 16;

/// The listener, on a runtime of its own.
pub(super) struct Server {
    listener: std::net::TcpListener,
    stop: Arc<Notify>,
}

impl Server {
    /// Listens.
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        let listen = || format!("unable to listen at {address} ([metrics] listen)");
        let listener = std::net::TcpListener::bind(address).with_context(listen)?;
        listener.set_nonblocking(true).with_context(listen)?;
        Ok(Self { listener, stop: Arc::new(Notify::new()) })
    }

    /// Answers until [`Server::stop`].
    pub(super) fn run(&self, status: &(dyn Fn() -> Status + Sync)) {
        let served = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(self.serve(status)));
        if let Err(error) = served {
            tracing::error!("metrics are not served any more: {error:#}");
        }
    }

    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }

    async fn serve(&self, status: &(dyn Fn() -> Status + Sync)) -> Result<()> {
        let listener = TcpListener::from_std(self.listener.try_clone()?)?;
        let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        loop {
            let connection = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.notified() => return Ok(()),
            };
            let (Ok((connection, _)), Ok(permit)) = (connection, Arc::clone(&permits).acquire_owned().await) else {
                continue;
            };
            // Taken when the connection comes: its requests are few and come at once.
            let text = text(&status());
            tokio::spawn(async move {
                let service = service_fn(|request| answer(request, text.clone()));
                let mut http = hyper::server::conn::http1::Builder::new();
                // What was taken when it came would be told again and again on a connection that stays.
                http.keep_alive(false);
                let served =
                    http.timer(hyper_util::rt::TokioTimer::new()).serve_connection(TokioIo::new(connection), service);
                if let Err(error) = served.await {
                    tracing::debug!("metrics: {error}");
                }
                drop(permit);
            });
        }
    }
}

async fn answer(request: Request<Incoming>, text: String) -> Result<Response<Full<Bytes>>, Infallible> {
    let found = request.method() == Method::GET && request.uri().path() == "/metrics";
    let (status, kind, text) = if found {
        (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
    } else {
        (StatusCode::NOT_FOUND, "text/plain", "see /metrics\n".to_owned())
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}
