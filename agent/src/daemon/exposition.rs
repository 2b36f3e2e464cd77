//! The status as metrics.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::status::{MirrorStatus, Status};
use crate::schedule::RunResult;
use crate::stream::StreamStatus;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfMirror {
    mirror: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOperation {
    mirror: String,
    operation: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

/// The status in OpenMetrics' text format.
pub(super) fn text(status: &Status) -> String {
    let mut registry = Registry::with_prefix("walkeep");
    if let Some(bytes) = status.agent.as_ref().and_then(|agent| agent.resident_bytes) {
        number(&mut registry, "agent_resident_memory", "Memory of the agent", Some(Unit::Bytes), bytes);
    }
    if let Some(agent) = &status.agent {
        let deaths = Counter::<u64, AtomicU64>::default();
        deaths.inc_by(agent.thread_deaths);
        registry.register("agent_thread_deaths", "Threads that died by a bug and were started again", deaths);
    }
    if let Some(stream) = &status.stream {
        of_stream(&mut registry, stream, Timestamp::now());
    }
    of_backups(&mut registry, status, Timestamp::now());
    of_mirrors(&mut registry, &status.mirrors);
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(signed(value));
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, gauge),
        None => registry.register(name, help, gauge),
    }
}

fn seconds(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge: Gauge<f64, AtomicU64> = Gauge::default();
    gauge.set(value);
    registry.register_with_unit(name, help, Unit::Seconds, gauge);
}

fn of_stream(registry: &mut Registry, stream: &StreamStatus, now: Timestamp) {
    number(registry, "stream_up", "1 while WAL comes in", None, u64::from(stream.streaming));
    for (name, help, lsn) in [
        ("stream_server_lsn", "Up to where the server has WAL", stream.server_lsn),
        ("stream_received_lsn", "Up to where WAL was received", stream.received_lsn),
        ("stream_flushed_lsn", "Up to where it is durable on the agent's host", stream.flushed_lsn),
        ("stream_stored_lsn", "Up to where it is in the repository, tails included", stream.stored_lsn),
        ("stream_archived_lsn", "Up to where whole segments are in the repository", stream.archived_lsn),
    ] {
        number(registry, name, help, Some(Unit::Bytes), lsn.as_u64());
    }
    for (name, help, moment) in [
        ("stream_received_time", "When WAL was received last", stream.received_at),
        ("stream_flushed_time", "When the newest durable WAL was received", stream.flushed_at),
        ("stream_stored_time", "When the newest WAL in the repository had been received", stream.stored_at),
        (
            "stream_archived_time",
            "When the newest whole segment in the repository had been received",
            stream.archived_at,
        ),
    ] {
        if let Some(moment) = moment {
            seconds(registry, name, help, moment.as_duration().as_secs_f64());
        }
    }
    number(registry, "stream_lag", "WAL that the repository lacks", Some(Unit::Bytes), stream.lag_bytes());
    if let Some(age) = stream.rpo_seconds(now) {
        seconds(registry, "rpo", "Age of what would be lost with this host and the server's", age);
    }
    let waiting = "Complete segments that wait for the repository";
    number(registry, "stream_waiting", waiting, Some(Unit::Bytes), stream.waiting_bytes);
    number(registry, "stream_gaps", "Stretches of WAL that are lost", None, stream.gaps.len() as u64);
    let branches = "Timelines that the server left before the end of what was received";
    number(registry, "stream_side_branches", branches, None, stream.side_branches.len() as u64);
    let retained = "WAL that the replication slot keeps on the server";
    number(registry, "slot_retained", retained, Some(Unit::Bytes), stream.slot.retained_bytes);
    let lost = u64::from(stream.slot.wal_status.as_deref() == Some("lost"));
    number(registry, "slot_lost", "1 when the server has removed WAL that the slot kept", None, lost);
    if let Some(safe) = stream.slot.safe_bytes {
        let help = "WAL that may still be written before the slot may lose some";
        number(registry, "slot_safe", help, Some(Unit::Bytes), u64::try_from(safe).unwrap_or(0));
    }
    let errors = Family::<OfKind, Counter<u64, AtomicU64>>::default();
    registry.register("stream_errors", "Failures of the stream since the agent started", errors.clone());
    for (kind, count) in &stream.errors {
        errors.get_or_create(&OfKind { kind: kind.clone() }).inc_by(*count);
    }
}

fn of_backups(registry: &mut Registry, status: &Status, now: Timestamp) {
    let elapsed = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64().max(0.0);
    if let Some(newest) = &status.newest_backup {
        for (name, help, value) in [
            ("backup_age", "Time since the newest base backup stopped", elapsed(newest.stopped, now)),
            ("backup_duration", "What the newest base backup took", elapsed(newest.started, newest.stopped)),
        ] {
            seconds(registry, name, help, value);
        }
    }
    if let Some(schedule) = &status.schedule {
        let failed = matches!(schedule.last.as_ref().map(|run| &run.result), Some(RunResult::Failed { .. }));
        number(registry, "schedule_failing", "1 when the last scheduled base backup failed", None, u64::from(failed));
        let running = u64::from(schedule.running.is_some());
        number(registry, "schedule_running", "1 while a scheduled base backup runs", None, running);
    }
}

fn of_mirrors(registry: &mut Registry, mirrors: &[MirrorStatus]) {
    let gauge = |registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>| {
        let family = Family::<OfMirror, Gauge>::default();
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
            None => registry.register(name, help, family.clone()),
        }
        family
    };
    let objects = gauge(registry, "mirror_lag_objects", "Objects that the mirror lacks", None);
    let bytes = gauge(registry, "mirror_lag", "Bytes that the mirror lacks", Some(Unit::Bytes));
    let age = gauge(registry, "mirror_lag", "Age of the oldest object that the mirror lacks", Some(Unit::Seconds));
    let stored = gauge(registry, "mirror_stored_lsn", "Up to where the mirror has streamed WAL", Some(Unit::Bytes));
    let complete = Family::<OfMirror, Gauge<f64, AtomicU64>>::default();
    let help = "What was written to the repository before is in the mirror";
    registry.register_with_unit("mirror_complete_before_time", help, Unit::Seconds, complete.clone());
    let failing = gauge(registry, "mirror_failures", "Failures since the last success", None);
    let compared = gauge(registry, "mirror_compared", "1 once both places were compared", None);
    let sent_objects = Family::<OfMirror, Counter<u64, AtomicU64>>::default();
    registry.register("mirror_sent_objects", "Objects sent since the agent started", sent_objects.clone());
    let sent = Family::<OfMirror, Counter<u64, AtomicU64>>::default();
    registry.register_with_unit("mirror_sent", "Bytes sent since the agent started", Unit::Bytes, sent.clone());
    let requests = Family::<OfOperation, Counter<u64, AtomicU64>>::default();
    registry.register("s3_requests", "Requests since the agent started", requests.clone());
    for mirror in mirrors {
        let of = OfMirror { mirror: mirror.url.clone() };
        objects.get_or_create(&of).set(signed(mirror.lag.objects));
        bytes.get_or_create(&of).set(signed(mirror.lag.bytes));
        age.get_or_create(&of).set(signed(mirror.lag.seconds));
        if let Some(lsn) = mirror.mirrored_lsn {
            stored.get_or_create(&of).set(signed(lsn.as_u64()));
        }
        if let Some(moment) = mirror.lag.complete_before {
            complete.get_or_create(&of).set(moment.as_duration().as_secs_f64());
        }
        failing.get_or_create(&of).set(signed(mirror.lag.failures));
        compared.get_or_create(&of).set(i64::from(mirror.lag.compared));
        sent_objects.get_or_create(&of).inc_by(mirror.lag.sent_objects);
        sent.get_or_create(&of).inc_by(mirror.lag.sent_bytes);
        for (operation, count) in mirror.requests.iter() {
            let of = OfOperation { mirror: mirror.url.clone(), operation: operation.to_owned() };
            requests.get_or_create(&of).inc_by(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walkeep_chunkstore::mirror::{Durability, Lag};
    use walkeep_proto::lsn::Lsn;

    #[test]
    fn lag_is_told_for_each_mirror() {
        let complete_before = Some(Timestamp::from_second(1_700_000_000).unwrap());
        let lag = Lag { objects: 3, bytes: 4096, seconds: 17, sent_objects: 9, complete_before, ..Lag::default() };
        let url = "s3://bucket/p".to_owned();
        let (durability, mirrored_lsn) = (Durability::Local, Some(Lsn::new(0x0100_0000)));
        let mirror = MirrorStatus { url, durability, lag, mirrored_lsn, requests: Default::default() };
        let mirrors = vec![mirror];
        let text = text(&Status {
            cluster: "main".to_owned(),
            repository: "/r".to_owned(),
            agent: None,
            stream: None,
            schedule: None,
            newest_backup: None,
            mirrors,
        });
        for line in [
            "walkeep_mirror_lag_objects{mirror=\"s3://bucket/p\"} 3",
            "walkeep_mirror_lag_bytes{mirror=\"s3://bucket/p\"} 4096",
            "walkeep_mirror_lag_seconds{mirror=\"s3://bucket/p\"} 17",
            "walkeep_mirror_stored_lsn_bytes{mirror=\"s3://bucket/p\"} 16777216",
            "walkeep_mirror_complete_before_time_seconds{mirror=\"s3://bucket/p\"} 1700000000.0",
            "walkeep_mirror_sent_objects_total{mirror=\"s3://bucket/p\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_stream_is_told() {
        let mut stream = StreamStatus { streaming: true, stored_at: Some(Timestamp::UNIX_EPOCH), ..Default::default() };
        (stream.server_lsn, stream.stored_lsn) = (walkeep_proto::lsn::Lsn::new(500), walkeep_proto::lsn::Lsn::new(200));
        stream.errors.insert("disk".to_owned(), 2);
        let status = Status {
            cluster: String::new(),
            repository: String::new(),
            agent: None,
            stream: Some(stream),
            schedule: None,
            newest_backup: None,
            mirrors: vec![],
        };
        let text = text(&status);
        for line in [
            "walkeep_stream_up 1",
            "walkeep_stream_server_lsn_bytes 500",
            "walkeep_stream_lag_bytes 300",
            "walkeep_stream_errors_total{kind=\"disk\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("walkeep_rpo_seconds "), "{text}");
    }
}
