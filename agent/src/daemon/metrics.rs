//! `GET /metrics` in the text format of OpenMetrics.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::Notify;

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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfMirror {
    mirror: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOperation {
    mirror: String,
    operation: String,
}

/// The status as metrics.
fn text(status: &Status) -> String {
    let mut registry = Registry::with_prefix("walkeep");
    let gauge = |registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>| {
        let family = Family::<OfMirror, Gauge>::default();
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
            None => registry.register(name, help, family.clone()),
        }
        family
    };
    let objects = gauge(&mut registry, "mirror_lag_objects", "Objects that the mirror lacks", None);
    let bytes = gauge(&mut registry, "mirror_lag", "Bytes that the mirror lacks", Some(Unit::Bytes));
    let seconds =
        gauge(&mut registry, "mirror_lag", "Age of the oldest object that the mirror lacks", Some(Unit::Seconds));
    let failing = gauge(&mut registry, "mirror_failures", "Failures since the last success", None);
    let compared = gauge(&mut registry, "mirror_compared", "1 once both places were compared", None);
    let sent_objects = Family::<OfMirror, Counter<u64, AtomicU64>>::default();
    registry.register("mirror_sent_objects", "Objects sent since the agent started", sent_objects.clone());
    let sent = Family::<OfMirror, Counter<u64, AtomicU64>>::default();
    registry.register_with_unit("mirror_sent", "Bytes sent since the agent started", Unit::Bytes, sent.clone());
    let requests = Family::<OfOperation, Counter<u64, AtomicU64>>::default();
    registry.register("s3_requests", "Requests since the agent started", requests.clone());
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    for mirror in &status.mirrors {
        let of = OfMirror { mirror: mirror.url.clone() };
        objects.get_or_create(&of).set(signed(mirror.lag.objects));
        bytes.get_or_create(&of).set(signed(mirror.lag.bytes));
        seconds.get_or_create(&of).set(signed(mirror.lag.seconds));
        failing.get_or_create(&of).set(signed(mirror.lag.failures));
        compared.get_or_create(&of).set(i64::from(mirror.lag.compared));
        sent_objects.get_or_create(&of).inc_by(mirror.lag.sent_objects);
        sent.get_or_create(&of).inc_by(mirror.lag.sent_bytes);
        for (operation, count) in mirror.requests.iter() {
            let of = OfOperation { mirror: mirror.url.clone(), operation: operation.to_owned() };
            requests.get_or_create(&of).inc_by(count);
        }
    }
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::MirrorStatus;
    use walkeep_chunkstore::mirror::{Durability, Lag};

    #[test]
    fn lag_is_told_for_each_mirror() {
        let lag = Lag { objects: 3, bytes: 4096, seconds: 17, sent_objects: 9, ..Lag::default() };
        let url = "s3://bucket/p".to_owned();
        let mirror = MirrorStatus { url, durability: Durability::Local, lag, requests: Default::default() };
        let mirrors = vec![mirror];
        let text = text(&Status { cluster: "main".to_owned(), repository: "/r".to_owned(), agent: None, mirrors });
        for line in [
            "walkeep_mirror_lag_objects{mirror=\"s3://bucket/p\"} 3",
            "walkeep_mirror_lag_bytes{mirror=\"s3://bucket/p\"} 4096",
            "walkeep_mirror_lag_seconds{mirror=\"s3://bucket/p\"} 17",
            "walkeep_mirror_sent_objects_total{mirror=\"s3://bucket/p\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
