//! A server that dies within a record: it gives the record up and goes on in the midst of it.

use std::fs;

use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Cluster, Digest, MajorVersion, Seed, create_marker, scenario, wait_until};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::wal::page::WalPageHeader;

use super::follows::assert_archive_is;
use super::{ARRIVES, assert_restored, now, position, status, streaming, wait_stored, walkeep};

const SEGMENT: u32 = 1 << 20;
const PAGE: usize = 8192;

/// How often is tried: the record breaks more often where a segment begins than within one, and both are
/// wanted.
const ATTEMPTS: usize = 60;

/// Where the WAL that the server has goes on in the midst of a record that it gave up.
fn given_up(cluster: &Cluster) -> Vec<Lsn> {
    let size = WalSegmentSize::new(SEGMENT).expect("a legal size");
    let mut found = Vec::new();
    for entry in fs::read_dir(cluster.data().join("pg_wal")).expect("pg_wal can be read").flatten() {
        let name = entry.file_name();
        let Some(segment) = name.to_str().and_then(|name| WalSegment::from_file_name(name, size)) else { continue };
        let bytes = fs::read(entry.path()).expect("the segment can be read");
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            let address = segment.start(size).saturating_add((number * PAGE) as u64);
            // A file that is used again has the pages of an earlier segment.
            let header = WalPageHeader::parse(page).ok().filter(|header| header.address == address);
            if header.is_some_and(|header| header.flags.overwrites_continuation()) {
                found.push(address);
            }
        }
    }
    found.sort_unstable();
    found
}

/// Has the server write a record of 200 MB, and kills it when some of it was streamed.
fn die_within_a_record(cluster: &mut Cluster) {
    let (writer, watcher) = (cluster.session("postgres"), cluster.session("postgres"));
    let begun = now(cluster);
    let writer = std::thread::spawn(move || {
        writer.try_sql("select pg_logical_emit_message(false, 'torn', repeat('x', 200000000))")
    });
    wait_until("some of the record to be written", ARRIVES, || {
        let here: Lsn = watcher.query_one::<String>("select pg_current_wal_flush_lsn()").parse().expect("a position");
        here.saturating_sub(begun) > u64::from(SEGMENT) * 4
    });
    cluster.kill9();
    if writer.join().expect("the writer ends").is_ok() {
        eprintln!("the record was finished before the server died");
    }
}

/// The agent is there all the time; it has received parts of records that the server never finished.
fn the_archive_has_what_the_server_gave_up(major: MajorVersion) {
    // Small buffers: what does not fit into them is written while the record is still being inserted.
    let options = Cluster::options(major).wal_segment_mb(1).setting("max_wal_size", "64MB");
    let mut cluster = options.setting("wal_buffers", "64kB").setting("wal_keep_size", "4GB").create();
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    for attempt in 1..=ATTEMPTS {
        wait_stored(&walkeep, now(&cluster));
        die_within_a_record(&mut cluster);
        cluster.start();
        let torn = given_up(&cluster);
        eprintln!("attempt {attempt}: the server went on within a record at {torn:?}");
        let begins_segment = |lsn: &Lsn| lsn.as_u64().is_multiple_of(u64::from(SEGMENT));
        if torn.iter().any(begins_segment) && !torn.iter().all(begins_segment) {
            break;
        }
        assert!(attempt < ATTEMPTS, "{ATTEMPTS} crashes tore records in one way only, or none: {torn:?}");
        pgbench_run(&cluster, 20, Seed::fixed(95));
    }
    pgbench_run(&cluster, 100, Seed::fixed(96));
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    let last = cluster.switch_wal();
    wait_stored(&walkeep, now(&cluster));
    assert!(given_up(&cluster).iter().all(|torn| *torn < position(&walkeep, "archived_lsn")));
    let told = status(&walkeep);
    assert_eq!((&told["gaps"], &told["side_branches"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(agent.stop().success());
    assert_archive_is(&walkeep, &cluster, &last);
    walkeep.verify();
    drop(cluster);
    assert_restored(&walkeep, &expected);
}
scenario!([V13, V14, V16, V18], the_archive_has_what_the_server_gave_up);
