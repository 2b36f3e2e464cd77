//! A proxy between a client and an S3 server that does to their traffic what a [`Rule`] says, and counts it.
//!
//! Requests arrive at the server as they left the client, `Host` included, so signatures stay valid. Bodies are
//! streamed. Everything can be changed while requests are under way.

mod body;
mod fault;
mod journal;
mod listing;
mod operation;
mod relay;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

pub use fault::{Fault, Rule, S3Error};
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
pub use journal::{Counts, Entry};
pub use operation::Operation;
pub(super) use operation::decode;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::client::Client;
use super::gate::{Gate, Mode};
use super::server::S3Server;

/// The proxy; a server of its own on a port of its own, until dropped.
#[derive(Debug)]
pub struct Proxy {
    gate: Gate,
    shared: Arc<Shared>,
}

/// A rule that is in force.
#[derive(Debug)]
pub struct Planned {
    shared: Arc<Shared>,
    id: u64,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<(u64, Rule)>,
    /// By rule, even when it is gone: how often it happened.
    hits: HashMap<u64, u64>,
    /// By rule: how many requests came before it.
    planned_at: HashMap<u64, usize>,
    latency: Duration,
    /// By number; which rule happened to it.
    log: Vec<(Entry, Option<u64>)>,
    /// The first that is reported; what was before stays known.
    reported_from: usize,
    lists: HashMap<String, Bytes>,
}

impl Proxy {
    /// Stands before a server that speaks plain HTTP, and passes on everything.
    pub fn before(server: &S3Server) -> Self {
        assert!(server.ca().is_none(), "the proxy does not speak TLS");
        let shared = Arc::new(Shared { server: server.address(), plan: Mutex::default() });
        let serving = Arc::clone(&shared);
        let gate = Gate::open(move |stream| converse(Arc::clone(&serving), stream));
        Self { gate, shared }
    }

    /// Its URL, to be given to clients instead of the server's.
    pub fn url(&self) -> String {
        format!("http://{}", self.gate.address())
    }

    /// A client that goes through it, with all rights on `server`.
    pub fn client(&self, server: &S3Server) -> Client {
        server.client_as(&self.url(), server.credentials())
    }

    /// Puts a rule into force from the next request on. Of several that match, the first planned happens.
    pub fn plan(&self, rule: Rule) -> Planned {
        let mut plan = self.shared.plan.lock();
        let id = plan.planned_at.len() as u64;
        let now = plan.log.len();
        plan.planned_at.insert(id, now);
        plan.rules.push((id, rule));
        Planned { shared: Arc::clone(&self.shared), id }
    }

    /// Takes all rules out of force, and the latency.
    pub fn behave(&self) {
        let mut plan = self.shared.plan.lock();
        plan.rules.clear();
        plan.latency = Duration::ZERO;
    }

    /// Every request waits this long before anything else happens to it.
    pub fn latency(&self, latency: Duration) {
        self.shared.plan.lock().latency = latency;
    }

    /// An outage: connections are cut, and refused from now on.
    pub fn refuse(&self) {
        self.gate.set(Mode::Shut);
    }

    /// An outage: connections are cut, new ones accepted and never answered.
    pub fn fall_silent(&self) {
        self.gate.set(Mode::Silent);
    }

    /// The end of an outage.
    pub fn restore(&self) {
        self.gate.set(Mode::Open);
    }

    /// What went through since the beginning or [`Proxy::forget`].
    pub fn log(&self) -> Vec<Entry> {
        let plan = self.shared.plan.lock();
        plan.log[plan.reported_from..].iter().map(|(entry, _)| entry.clone()).collect()
    }

    /// The sums of [`Proxy::log`].
    pub fn counts(&self) -> Counts {
        Counts::of(&self.log())
    }

    /// Log and counts begin anew.
    pub fn forget(&self) {
        let mut plan = self.shared.plan.lock();
        plan.reported_from = plan.log.len();
    }
}

impl Planned {
    /// To how many requests it has happened.
    pub fn hits(&self) -> u64 {
        self.shared.plan.lock().hits.get(&self.id).copied().unwrap_or_default()
    }

    /// Takes it out of force; says how often it has happened.
    pub fn end(self) -> u64 {
        self.shared.plan.lock().rules.retain(|(id, _)| *id != self.id);
        self.hits()
    }
}

impl Shared {
    /// Writes down a request and decides what happens to it; gives its number, itself, and how long it waits.
    fn note(&self, mut entry: Entry) -> (usize, Entry, Duration) {
        let mut plan = self.plan.lock();
        let plan = &mut *plan;
        let mut happens = None;
        for (id, rule) in &mut plan.rules {
            let hits = plan.hits.entry(*id).or_default();
            if happens.is_none() && rule.takes(&entry, *hits) {
                *hits += 1;
                happens = Some((*id, rule.fault));
            }
        }
        entry.fault = happens.map(|(_, fault)| fault);
        plan.log.push((entry.clone(), happens.map(|(id, _)| id)));
        (plan.log.len() - 1, entry, plan.latency)
    }

    fn answered(&self, number: usize, status: u16) {
        if let Some((entry, _)) = self.plan.lock().log.get_mut(number) {
            entry.status = Some(status);
        }
    }

    /// What was published in the bucket of a LIST since the rule that happened to it was planned.
    fn published_since_planned(&self, number: usize) -> HashSet<String> {
        let plan = self.plan.lock();
        let Some((list, Some(rule))) = plan.log.get(number) else { return HashSet::new() };
        let since = plan.planned_at.get(rule).copied().unwrap_or_default();
        let published = plan.log.iter().skip(since).map(|(entry, _)| entry);
        let published =
            published.filter(|e| e.operation.publishes() && e.bucket == list.bucket && e.status == Some(200));
        published.map(|entry| entry.key.clone()).collect()
    }

    fn remember_list(&self, entry: &Entry, answer: &Bytes) {
        self.plan.lock().lists.insert(format!("{}?{}", entry.path, entry.query), answer.clone());
    }

    fn earlier_list(&self, entry: &Entry) -> Option<Bytes> {
        self.plan.lock().lists.get(&format!("{}?{}", entry.path, entry.query)).cloned()
    }
}

async fn converse(shared: Arc<Shared>, stream: TcpStream) {
    // A second name of the socket, for what must happen to it when it is closed.
    let Ok(client) = stream.as_fd().try_clone_to_owned() else { return };
    let client: Arc<OwnedFd> = Arc::new(client);
    let service = service_fn(|request| relay::answer(Arc::clone(&shared), Arc::clone(&client), request));
    // Connections that were cut on purpose end with an error.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
